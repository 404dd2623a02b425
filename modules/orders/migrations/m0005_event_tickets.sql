-- Single-use tickets for following an order from where no header can be sent. A ticket has 256 random bits; only its SHA-256 is stored.
create table event_ticket (
    hash text primary key,
    order_id uuid not null,
    user_id uuid not null,
    expires_at bigint not null
);
create index event_ticket_expiry on event_ticket (expires_at);
