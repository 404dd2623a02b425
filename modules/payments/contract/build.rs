use banyan_contract_build::{Words, compile_with};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(compile_with(Words {
        package: ".banyan.kernel.v1",
        rust: "::shared_kernel",
        folder: "../../../shared-kernel/proto",
    })?)
}
