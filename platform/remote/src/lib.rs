//! Calls between processes: how a remote module is found, called and protected, and how local modules are served to others.
//!
//! - [`discovery`]: which instances a module has.
//! - [`balancing`]: which of them is called next, and when a module is not called at all. Used by the gRPC client and the gateway.
//! - [`grpc`]: the contracts over gRPC, client and server.
//! - [`mtls`]: the certificates between processes.
//!
//! Modules do not see any of it, except that a call may fail with `unavailable` or `timeout`.

pub mod balancing;
pub mod discovery;
pub mod grpc;
pub mod mtls;
