use banyan_contract_build::{SharedMessages, compile_with};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(compile_with(SharedMessages {
        package: ".banyan.kernel.v1",
        rust: "::shared_kernel",
        folder: "../../../shared-kernel/proto",
    })?)
}
