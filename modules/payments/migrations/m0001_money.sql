-- One payment per order. All its amounts share one currency.
create table payment (
    id uuid primary key,
    order_id uuid not null unique,
    user_id uuid not null,
    status text not null check (status in ('created', 'authorising', 'authorised', 'capturing', 'captured', 'partially_refunded', 'refunded',
        'declined', 'voiding', 'voided')),
    -- What the order asks for.
    amount bigint not null check (amount >= 0),
    currency text not null,
    authorised_amount bigint not null check (authorised_amount >= 0 and authorised_amount <= amount),
    captured_amount bigint not null check (captured_amount >= 0 and captured_amount <= authorised_amount),
    refunded_amount bigint not null check (refunded_amount >= 0),
    -- Reserved by refunds whose outcome is not known yet.
    refunding_amount bigint not null check (refunding_amount >= 0),
    payment_method text not null,
    -- The provider's name for the authorisation; known once it is authorised.
    provider_authorisation text,
    decline_code text,
    void_requested boolean not null,
    created_at bigint not null,
    updated_at bigint not null,
    version bigint not null,
    check (refunded_amount + refunding_amount <= captured_amount)
);
create index payment_by_user on payment (user_id, id);

-- What payments was asked to do with money, and what came of it. The id is the provider's idempotency key and our reference there.
-- `requested`: a void that waits for another command's outcome. `started`: the provider is being asked; the outcome is unknown.
-- A row without a payment is a tombstone: the void of this authorisation came first.
create table money_command (
    id uuid primary key,
    kind text not null check (kind in ('authorise', 'capture', 'void', 'refund')),
    fingerprint text not null,
    payment_id uuid references payment (id) deferrable initially deferred,
    order_id uuid not null,
    amount bigint not null check (amount >= 0),
    currency text not null,
    reason text,
    state text not null check (state in ('requested', 'started', 'answered')),
    outcome text,
    traceparent text,
    created_at bigint not null,
    started_at bigint,
    answered_at bigint,
    check ((state = 'answered') = (outcome is not null)),
    check (state <> 'started' or payment_id is not null)
);
create index money_command_by_payment on money_command (payment_id, id);
create index money_command_open on money_command (started_at) where state = 'started';
-- At most one capture, and one void, of a payment can be on its way.
create unique index money_command_one_on_its_way on money_command (payment_id, kind) where state = 'started' and kind <> 'refund';

-- Double entry, append only: the entries of a transaction sum to zero per currency. Debits are positive, credits negative.
create table ledger_transaction (
    id uuid primary key,
    payment_id uuid not null references payment (id),
    -- One command, at most one effect.
    command_id uuid not null unique,
    kind text not null check (kind in ('authorisation', 'void', 'capture', 'refund')),
    created_at bigint not null
);
create index ledger_transaction_by_payment on ledger_transaction (payment_id);
create unique index ledger_one_authorisation on ledger_transaction (payment_id) where kind = 'authorisation';
create unique index ledger_one_end on ledger_transaction (payment_id) where kind in ('capture', 'void');

create table ledger_entry (
    transaction_id uuid not null references ledger_transaction (id),
    account text not null check (account in ('authorised', 'authorised_offset', 'provider', 'sales', 'refunds')),
    amount bigint not null,
    currency text not null,
    primary key (transaction_id, account, currency)
);
create index ledger_entry_by_account on ledger_entry (account, currency);
