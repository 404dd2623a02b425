//! Generates the contract crate of a module from its `.proto` files: messages, one trait per service, and the trait's adapters.
//!
//! Called from a contract's two-line `build.rs`. For a package `banyan.library.v1` with a service `Library` it generates:
//! - every message, with serde (snake_case; missing fields take their defaults, so a contract may grow);
//! - `trait Library`: one method per rpc, with `&Call` and the request as arguments, returning `Result<response, Fault>`: **what modules use**;
//! - `LocalLibrary`: the trait served by a module in this process; neither it nor the next can be called inside a write transaction;
//! - `RemoteLibrary<T>`: the trait over a gRPC channel; `ServedLibrary`: a gRPC service over an `Arc<dyn Library>`;
//! - `impl Event` for every message of `events.proto`, and `EVENT_TYPES`;
//! - `DESCRIPTOR_SET`: the encoded descriptors, for reflection and for the test that contracts only grow.

use std::{env, fs, path::Path};

use anyhow::Context;
use prost::Message;
use prost_build::{Service, ServiceGenerator};
use prost_types::FileDescriptorSet;

/// Messages that several contracts share, written by hand as Rust types of one crate.
#[derive(Clone, Copy, Debug)]
pub struct SharedMessages<'a> {
    /// Their protobuf package, with a dot before it: `.banyan.shared.v1`.
    pub package: &'a str,
    /// The crate that has their Rust types, for example `::shared_types`.
    pub rust: &'a str,
    /// The folder that its `.proto` files are imported from, as seen from the contract's crate.
    pub folder: &'a str,
}

/// Compiles `proto/service.proto` and, if there is one, `proto/events.proto` of the calling crate into `OUT_DIR/contract.rs`.
///
/// # Errors
/// A `.proto` file that cannot be read or compiled.
pub fn compile() -> anyhow::Result<()> {
    compile_contract(None)
}

/// As [`compile`], for a contract whose messages contain `shared` messages.
///
/// # Errors
/// As [`compile`].
pub fn compile_with(shared: SharedMessages<'_>) -> anyhow::Result<()> {
    compile_contract(Some(shared))
}

#[allow(clippy::print_stdout, reason = "a build script writes to Cargo on standard output")]
fn compile_contract(shared: Option<SharedMessages<'_>>) -> anyhow::Result<()> {
    let out_dir = env::var("OUT_DIR").context("OUT_DIR: call this from a build script")?;
    let out_dir = Path::new(&out_dir);
    let files: Vec<&str> = ["service.proto", "events.proto"]
        .into_iter()
        .filter(|name| Path::new("proto").join(name).exists())
        .collect();
    let folders = ["proto"].into_iter().chain(shared.map(|shared| shared.folder));
    let descriptors = protox::compile(&files, folders)?;
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let package = descriptors
        .file
        .iter()
        .find(|file| file.name() == files[0])
        .context("no package")?
        .package()
        .to_owned();
    let mut config = prost_build::Config::new();
    let grpc = tonic_prost_build::configure()
        .build_transport(false)
        .service_generator();
    config
        .out_dir(out_dir)
        .type_attribute(
            ".",
            "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"snake_case\")]",
        )
        .message_attribute(".", "#[serde(default)]")
        .service_generator(Box::new(ContractGenerator { grpc }));
    if let Some(shared) = shared {
        config.extern_path(shared.package, shared.rust);
    }
    let events = events_of(&descriptors);
    config.compile_fds(descriptors)?;

    let mut contract = fs::read_to_string(out_dir.join(format!("{package}.rs")))?;
    contract.push_str(&events);
    contract.push_str(DESCRIPTORS);
    fs::write(out_dir.join("contract.rs"), contract)?;
    println!("cargo:rerun-if-changed=proto");
    if let Some(shared) = shared {
        println!("cargo:rerun-if-changed={}", shared.folder);
    }
    Ok(())
}

const DESCRIPTORS: &str = r#"
/// The encoded `FileDescriptorSet` of this contract: served by gRPC reflection, and compared by the test that contracts only grow.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
"#;

/// `impl Event` for each top-level message of `events.proto`.
fn events_of(descriptors: &FileDescriptorSet) -> String {
    let mut code = String::new();
    let mut types = Vec::new();
    for file in descriptors.file.iter().filter(|file| file.name() == "events.proto") {
        for message in &file.message_type {
            let kind = format!("{}.{}", file.package(), message.name());
            code.push_str(&format!(
                "impl banyan_core::Event for {} {{ const TYPE: &'static str = {kind:?}; const ALL_TYPES: &'static [&'static str] = EVENT_TYPES; }}\n",
                message.name()
            ));
            types.push(kind);
        }
    }
    code.push_str(&format!(
        "/// The type names of every event this module publishes.\npub const EVENT_TYPES: &[&str] = &{types:?};\n"
    ));
    code
}

/// Writes tonic's client and server, then the trait and its adapters onto both.
struct ContractGenerator {
    grpc: Box<dyn ServiceGenerator>,
}

impl ServiceGenerator for ContractGenerator {
    fn generate(&mut self, service: Service, buf: &mut String) {
        write_contract(&service, buf);
        self.grpc.generate(service, buf);
    }

    fn finalize(&mut self, buf: &mut String) {
        self.grpc.finalize(buf);
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        self.grpc.finalize_package(package, buf);
        buf.push_str(WIRE);
    }
}

fn docs(comments: &prost_build::Comments, indent: &str) -> String {
    comments
        .leading
        .iter()
        .map(|line| format!("{indent}///{}{line}\n", if line.starts_with(' ') { "" } else { " " }))
        .collect()
}

fn write_contract(service: &Service, buf: &mut String) {
    let name = &service.name;
    let module = snake_case(name);
    let (mut methods, mut local, mut remote, mut served) = (String::new(), String::new(), String::new(), String::new());
    for method in &service.methods {
        let (rpc, input, output) = (&method.name, &method.input_type, &method.output_type);
        methods.push_str(&docs(&method.comments, "    "));
        methods.push_str(&format!(
            "    async fn {rpc}(&self, call: &banyan_core::Call, request: {input}) -> Result<{output}, banyan_core::Fault>;\n"
        ));
        local.push_str(&format!(
            "    async fn {rpc}(&self, call: &banyan_core::Call, request: {input}) -> Result<{output}, banyan_core::Fault> {{
        banyan_core::outside_transaction(\"{name}.{rpc}\")?;
        self.0.{rpc}(call, request).await
    }}\n"
        ));
        remote.push_str(&format!(
            "    async fn {rpc}(&self, call: &banyan_core::Call, request: {input}) -> Result<{output}, banyan_core::Fault> {{
        banyan_core::outside_transaction(\"{name}.{rpc}\")?;
        let response = self.client.clone().{rpc}(wire::request(call, request)).await;
        response.map(tonic::Response::into_inner).map_err(wire::fault)
    }}\n"
        ));
        served.push_str(&format!(
            "    async fn {rpc}(&self, request: tonic::Request<{input}>) -> Result<tonic::Response<{output}>, tonic::Status> {{
        let call = wire::call(&request);
        let response = self.0.{rpc}(&call, request.into_inner()).await;
        response.map(tonic::Response::new).map_err(wire::status)
    }}\n"
        ));
    }
    buf.push_str(&format!(
        r#"
{docs}#[async_trait::async_trait]
pub trait {name}: Send + Sync {{
{methods}}}

/// [`{name}`] served by a module in this process.
#[derive(Clone)]
pub struct Local{name}(pub std::sync::Arc<dyn {name}>);

#[async_trait::async_trait]
impl {name} for Local{name} {{
{local}}}

/// [`{name}`] served by another process, over gRPC.
#[derive(Clone)]
pub struct Remote{name}<T> {{
    client: {module}_client::{name}Client<T>,
}}

impl<T> Remote{name}<T>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{{
    /// Over any channel: a connection, or a stack of tower layers around one.
    pub fn new(channel: T) -> Self {{
        Remote{name} {{ client: {module}_client::{name}Client::new(channel) }}
    }}
}}

#[async_trait::async_trait]
impl<T> {name} for Remote{name}<T>
where
    T: tonic::client::GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{{
{remote}}}

/// Serves any [`{name}`] over gRPC; wrap it in [`{module}_server::{name}Server`].
#[derive(Clone)]
pub struct Served{name}(pub std::sync::Arc<dyn {name}>);

#[async_trait::async_trait]
impl {module}_server::{name} for Served{name} {{
{served}}}

impl Served{name} {{
    /// The gRPC service, with a maximum size of messages in both directions.
    pub fn server(self, max_message_bytes: usize) -> {module}_server::{name}Server<Self> {{
        {module}_server::{name}Server::new(self)
            .max_decoding_message_size(max_message_bytes)
            .max_encoding_message_size(max_message_bytes)
    }}
}}

/// The full name of the service.
pub const SERVICE: &str = "{package}.{proto_name}";
"#,
        docs = docs(&service.comments, ""),
        package = service.package,
        proto_name = service.proto_name,
    ));
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// How `Call` and `Fault` are sent over gRPC: as metadata, and as a status with details. Who calls is what the server has verified.
const WIRE: &str = r#"
mod wire {
    use banyan_core::{Call, Fault, VerifiedCaller, WireFault};
    use tonic::{Request, Status, metadata::MetadataValue};

    pub fn request<M>(call: &Call, message: M) -> Request<M> {
        let mut request = Request::new(message);
        for (name, value) in call.to_headers() {
            if let Ok(mut value) = value.parse::<MetadataValue<_>>() {
                // Kept out of logs and of the compression of headers.
                value.set_sensitive(name == Call::TOKEN);
                request.metadata_mut().insert(name, value);
            }
        }
        request
    }

    pub fn call<M>(request: &Request<M>) -> Call {
        let metadata = request.metadata();
        Call::received(request.extensions().get::<VerifiedCaller>(), |name| {
            metadata.get(name).and_then(|value| value.to_str().ok())
        })
    }

    pub fn status(fault: Fault) -> Status {
        let wire = WireFault::from(&fault);
        Status::with_details(wire.code.into(), wire.message, wire.details.into())
    }

    pub fn fault(status: Status) -> Fault {
        Fault::from(WireFault { code: status.code().into(), message: status.message().to_owned(), details: status.details().to_vec() })
    }
}
"#;
