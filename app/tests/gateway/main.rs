//! The gateway over real sockets: what arrives behind it, and what comes back.

mod attempts;
mod edge;
mod instance;
mod limits;
mod passing;
mod routes;
mod streams;
mod tls;
