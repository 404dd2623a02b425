//! The gateway over real sockets: which requests reach an instance, and which responses reach the client.

mod attempts;
mod forwarding;
mod instance;
mod limits;
mod routes;
mod streams;
mod test_gateway;
mod tls;
