-- A saga's log, a line of JSON for each entry: written with the decision it tells of, in the same statement. Older entries are in `saga_log`.
alter table saga add column log text not null default '';
-- How long the saga has from its start to its deadline; a deadline farther away was made by a clock that has been set back since.
alter table saga add column deadline_ms bigint;

-- Up to when what has expired may be deleted: it follows the clock, but no faster than time passes. One row.
create table horizon (
    id bigint primary key,
    at bigint not null,
    seen_at bigint not null
);
