//! Hands outbox rows to the bus until the bus confirms them.
