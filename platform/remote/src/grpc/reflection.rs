//! What this process serves, described for clients that were not compiled against it (`grpcurl`, other languages).

use anyhow::Context;
use prost::Message;
use prost_types::FileDescriptorSet;

/// The descriptors of the contracts of these modules, the event feed and health, as one set.
///
/// Every contract's files are called `service.proto` and `events.proto`, which is enough when it is compiled alone. Together they need distinct
/// names, or reflection takes them for the same file: they are renamed by their package, as in `banyan/orders/v1/service.proto`.
///
/// # Errors
/// A descriptor set that cannot be read, which would be a bug.
pub fn descriptors(modules: &[(&str, &[u8])]) -> anyhow::Result<FileDescriptorSet> {
    let mut all = FileDescriptorSet::default();
    let platform = [
        ("event feed", banyan_event_feed_contract::DESCRIPTOR_SET),
        ("health", tonic_health::pb::FILE_DESCRIPTOR_SET),
    ];
    for (contract, encoded) in modules.iter().copied().chain(platform) {
        let set = FileDescriptorSet::decode(encoded).with_context(|| format!("the descriptors of {contract}"))?;
        for mut file in set.file {
            let folder = file.package().replace('.', "/");
            let named = |name: &str| {
                if name.contains('/') {
                    name.to_owned()
                } else {
                    format!("{folder}/{name}")
                }
            };
            file.dependency
                .iter_mut()
                .for_each(|imported| *imported = named(imported));
            file.name = Some(named(file.name()));
            if !all.file.iter().any(|existing| existing.name == file.name) {
                all.file.push(file);
            }
        }
    }
    Ok(all)
}
