-- An order's truth: what happened to it, one row an event. Rows are only added.
create table order_event (
    order_id uuid not null,
    -- Gapless; the key lets only one writer take the next one.
    version bigint not null check (version >= 1),
    kind text not null,
    data text not null,
    at bigint not null,
    primary key (order_id, version)
);

-- The read model: folded from the events alone, and made anew from them whenever wanted.
create table order_view (
    id uuid primary key,
    user_id uuid not null,
    status text not null check (status in ('pending', 'confirmed', 'shipped', 'delivered', 'cancelled')),
    cancel_reason text check (cancel_reason in ('out_of_stock', 'payment_declined', 'customer', 'expired', 'operator')),
    -- As JSON: items, payment and shipment are shown as a whole, never searched.
    items text not null,
    total_amount bigint not null check (total_amount >= 0),
    currency text not null,
    payment text,
    shipment text,
    created_at bigint not null,
    version bigint not null,
    check ((status = 'cancelled') = (cancel_reason is not null))
);
create index order_view_by_user on order_view (user_id, created_at, id);
create index order_view_by_status on order_view (status, created_at, id);
create index order_view_by_time on order_view (created_at, id);
