-- A problem that somebody reported.
create table ticket (
    id uuid primary key,
    subject text not null,
    severity text not null check (severity in ('normal', 'critical')),
    status text not null check (status in ('open', 'assigned', 'closed')),
    -- As JSON: they are read and shown as a whole, never searched.
    agent_ids text not null,
    -- Raised by every change; an update names the version it has seen.
    version bigint not null,
    opened_at bigint not null
);
create index ticket_by_status on ticket (status, id);
