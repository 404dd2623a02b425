fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(banyan_contract_build::compile()?)
}
