-- The units of each sku in the warehouse, and how many of them are reserved for orders.
create table stock_item (
    sku text primary key,
    on_hand bigint not null check (on_hand >= 0),
    reserved bigint not null,
    version bigint not null,
    check (reserved >= 0 and reserved <= on_hand)
);

-- The reservation of an order. `command_id` is the command that created it, which a release refers to.
create table reservation (
    order_id uuid primary key,
    command_id uuid not null unique,
    state text not null check (state in ('held', 'released', 'committed', 'restocked')),
    created_at bigint not null,
    changed_at bigint not null
);
create index reservation_by_state on reservation (state, created_at);

create table reservation_line (
    order_id uuid not null references reservation (order_id),
    sku text not null references stock_item (sku),
    quantity bigint not null check (quantity > 0),
    primary key (order_id, sku)
);

-- The ledger: every change of a level, in units. Quantities are positive, and the kind implies the direction. Rows are only ever added.
create table movement (
    id uuid primary key,
    sku text not null references stock_item (sku),
    kind text not null check (kind in ('received', 'reserved', 'released', 'committed', 'restocked', 'written_off')),
    quantity bigint not null check (quantity > 0),
    order_id uuid,
    actor text not null,
    reason text,
    at bigint not null
);
create index movement_by_sku on movement (sku, at);
create index movement_by_order on movement (order_id) where order_id is not null;
