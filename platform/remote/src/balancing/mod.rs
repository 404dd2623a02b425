//! How calls to a remote module are protected and spread over its instances, whatever protocol carries them.
//!
//! A [`ModuleClient`] does it all, in this order: the [`Bulkhead`] (how many calls may run and wait), the [`Breaker`] (an unavailable module
//! is not called), and the [`Balancer`] (a healthy instance with few calls in flight). [`CallFailure`] says why a call
//! got no response.

mod balancer;
mod breaker;
mod bulkhead;
mod client;
mod failure;

pub use balancer::{Balancer, Connector, InstanceState, Picked, why_degraded};
pub use breaker::{Breaker, BreakerRules, BreakerState, Outcome};
pub use bulkhead::{Bulkhead, QueueFull};
pub use client::{Attempt, ModuleClient, Resend};
pub use failure::CallFailure;
