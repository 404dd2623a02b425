//! `[durable]`, in a binary without any module: nothing reads it.

pub type DurableSettings = serde::de::IgnoredAny;
