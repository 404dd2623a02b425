-- How far in time this database has come, and how far the others of its process had come when it heard of them last: a row for each, this one among them.
create table if not exists mark (
    name text primary key,
    at_ms bigint not null
);
