//! Calls between processes: how a module that runs elsewhere is found, called and protected, and how local modules are served to others.
//!
//! - [`discovery`]: which instances a module has.
//! - [`balancing`]: which of them is called next, and when a module is not called at all. gRPC client and gateway use the same.
//! - [`grpc`]: the contracts over gRPC, client and server.
//! - [`mtls`]: the certificates between processes.
//!
//! Modules know nothing of it, except that any call may end in `unavailable` or `timeout`.

pub mod balancing;
pub mod discovery;
pub mod grpc;
pub mod mtls;
