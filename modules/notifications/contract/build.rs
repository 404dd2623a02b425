fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(contract_build::compile()?)
}
