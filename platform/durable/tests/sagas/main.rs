//! Sagas against services that answer, refuse, hang, fail and panic as told; on both databases.

mod compensation;
mod leases;
mod operators;
mod script;
mod steps;
mod trouble;
