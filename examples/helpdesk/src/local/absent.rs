//! Replaces the file of a module that is not in this binary.

use banyan_host::local::LocalModule;

use crate::Contracts;

pub const MODULE: Option<LocalModule<Contracts>> = None;
