//! Sagas against scripted services that respond, refuse, hang, fail and panic; on both databases.

mod clocks;
mod compensation;
mod failures;
mod harness;
mod leases;
mod operators;
mod script;
mod steps;
