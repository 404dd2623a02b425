-- The installation that this database belongs to, and the databases it is known to have: a row for each, this one among them.
create table installation (
    name text primary key,
    id uuid not null,
    known_since bigint not null
);
