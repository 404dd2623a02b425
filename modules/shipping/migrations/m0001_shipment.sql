-- One order has one shipment.
create table shipment (
    id uuid primary key,
    order_id uuid not null unique,
    user_id uuid not null,
    status text not null check (status in ('scheduled', 'ready', 'dispatched', 'delivered', 'cancelled')),
    -- As JSON: an address is read and shown as a whole, never searched.
    address text not null,
    lines text not null,
    tracking_number text,
    carrier text,
    -- Raised by every change; an update names the version it has seen.
    version bigint not null,
    created_at bigint not null,
    -- Nothing leaves the house without a number to follow it by.
    check (status not in ('dispatched', 'delivered') or tracking_number is not null)
);
create index shipment_by_status on shipment (status, id);

-- What happened to a shipment, one row a version; rows are only added.
create table shipment_step (
    shipment_id uuid not null references shipment (id),
    version bigint not null,
    status text not null,
    at bigint not null,
    primary key (shipment_id, version)
);
