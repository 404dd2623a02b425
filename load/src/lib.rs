//! What the load driver shares with the tests: how a database is filled with very many rows.

pub mod copies;
