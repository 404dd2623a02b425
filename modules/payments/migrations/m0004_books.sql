-- When the provider booked the movement, by the provider's clock: set once the movement was found in the provider's books and is the same there.
alter table ledger_transaction add column booked_at bigint;
-- What was not found there yet: few among very many.
create index ledger_transaction_unmatched on ledger_transaction (created_at, command_id) where booked_at is null;
create index ledger_transaction_booked on ledger_transaction (booked_at, command_id);

-- Periods of the provider's books that were compared with ours, movement by movement: from the first time until before the second one. Each begins where
-- the one before it ends.
create table books_period (
    starts_at bigint primary key,
    ends_at bigint not null unique,
    -- What the provider had booked: JSON.
    sums text not null,
    sealed_at bigint not null,
    -- When it was compared last.
    verified_at bigint not null
);
create index books_period_verified on books_period (verified_at);

-- Movements that are not the same in both books, by the id of their command.
create table books_difference (
    reference uuid primary key,
    description text not null,
    found_at bigint not null,
    checked_at bigint not null
);
create index books_difference_checked on books_difference (checked_at);

-- When the books were last compared to the end: one row.
create table books_comparison (
    id bigint primary key check (id = 1),
    completed_at bigint not null
);
