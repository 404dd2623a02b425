-- The name is unique: of two requests that add the same name at the same time, one is refused.
-- Kept for ever: an item has no end.
create table item (
    id uuid primary key,
    name text not null unique,
    created_at bigint not null
);
