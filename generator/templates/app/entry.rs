    Module {
        name: "{module}",
        calls: &[],
        subscribes: &["catalog.product"],
        settings: include_str!("../../modules/{module}/config/default.toml"),
        contract: Contract {
            service: {module}_contract::SERVICE,
            descriptors: {module}_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(Served{Module}(contracts.{module}.clone()).server(MESSAGE_BYTES)),
        },
        local: {module}::MODULE,
    },
