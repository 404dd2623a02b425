-- What the producer said it has stored of what this module confirmed. One that has less was restored from a backup. Null: nothing yet.
alter table compared add column acknowledged_ms bigint;

-- The producers that were restored, as long as their subjects are compared with our lanes: those up to this subject were.
create table restored (
    source text primary key,
    after_subject text not null
);
