-- The carts that were not checked out, by their last change. An abandoned one is deleted, with its events; a checkout deletes the row alone.
create table open_cart (
    id uuid primary key,
    changed_at bigint not null
);
create index open_cart_changed on open_cart (changed_at);
insert into open_cart (id, changed_at)
    select order_id, max(at) from order_event
    where not exists (select 1 from order_event placed where placed.order_id = order_event.order_id and placed.kind = 'placed')
    group by order_id;
