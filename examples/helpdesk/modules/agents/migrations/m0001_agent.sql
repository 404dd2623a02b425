-- A person who works on tickets.
create table agent (
    id uuid primary key,
    name text not null,
    -- The maximum number of tickets at the same time.
    capacity bigint not null check (capacity > 0),
    -- The number of places that are taken, by reservations of tickets.
    reserved bigint not null check (reserved between 0 and capacity),
    closed_tickets bigint not null,
    -- Raised by every change; an update names the version it has seen.
    version bigint not null
);

-- A place taken for a ticket. It is deleted when the ticket is closed, or when its reservation is undone.
create table reservation (
    -- The id of the command that made it, which is what its undo names.
    id uuid primary key,
    ticket_id uuid not null,
    agent_id uuid not null references agent (id),
    unique (ticket_id, agent_id)
);
