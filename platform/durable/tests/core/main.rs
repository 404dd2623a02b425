//! What the machinery promises, on both databases: writing, commands, events, leases, migrations, operators.

mod absence;
mod backlog;
mod batches;
mod catch_up;
mod clocks;
mod commands;
mod events;
mod feeds;
mod growth;
mod harness;
mod installations;
mod leases;
mod migrations;
mod operators;
mod outages;
mod reactions;
mod restored;
mod together;
mod upgrades;
mod watching;
mod went_back;
mod writing;
mod writing_postgres;
mod writing_sqlite;
