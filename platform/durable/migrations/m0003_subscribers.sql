-- Who subscribes to this module's events, and how far each has come: events after that are not deleted.
create table subscriber (
    module text not null,
    aggregate text not null,
    -- Events before this time were published before it subscribed. 0: every event is meant for it.
    begins_at bigint not null,
    -- Every event before this time was handled or is stored by it. 0: none yet.
    confirmed_before bigint not null,
    -- An operator said that it will not come back, so nothing is kept for it. Its next confirmation takes this back.
    given_up boolean not null,
    primary key (module, aggregate)
);
-- Stands for the subscribers until the first start has listed them: every event is meant for those. Subscribers that are added later find it gone.
insert into subscriber (module, aggregate, begins_at, confirmed_before, given_up) values ('', '', 0, 0, false);

-- How far this module has come with the events of others: everything that happened before was handled, or is in the retry table.
create table compared (
    source text not null,
    aggregate text not null,
    before_ms bigint not null,
    primary key (source, aggregate)
);

-- A source whose database lost a transaction gives the same version out again; the id tells the two events apart. The version is that of the id: an
-- instance of an earlier version counts up without it, and then the id is not that of the last event.
alter table lane add column event_id uuid;
alter table lane add column event_version bigint;
alter table subject add column last_event_id uuid;
alter table subject add column last_event_version bigint;
alter table subject add column previous_event_id uuid;

-- Of `missing`: the last of the versions that nobody can deliver; the row's own is the first. Of `went_back`: the version after which the lane goes on
-- if it is discarded. Null for events.
alter table retry add column until_version bigint;
