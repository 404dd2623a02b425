-- The commands the module received, with their results. A tombstone stands for a command whose undo came first.
create table inbox (
    kind text not null,
    id text not null,
    fingerprint text not null,
    tombstone boolean not null,
    answer text,
    created_at bigint not null,
    expires_at bigint,
    primary key (kind, id)
);
create index inbox_expires on inbox (expires_at) where expires_at is not null;

-- The version of the last event of a subject; its row lock orders writers, so versions are gapless.
create table subject (
    subject text primary key,
    last_version bigint not null,
    changed_at bigint not null
);
create index subject_changed on subject (changed_at, subject);

create table outbox (
    id uuid primary key,
    kind text not null,
    subject text not null,
    version bigint not null,
    body text not null,
    traceparent text,
    state text not null check (state in ('pending', 'sent')),
    attempts bigint not null,
    next_attempt_at bigint not null,
    created_at bigint not null,
    sent_at bigint,
    last_error text,
    unique (subject, version)
);
create index outbox_pending on outbox (subject, version) where state = 'pending';
create index outbox_sent on outbox (sent_at) where state = 'sent';

-- The last version this module has handled of each subject of the modules it subscribes to.
create table lane (
    source text not null,
    subject text not null,
    last_version bigint not null,
    primary key (source, subject)
);

-- Events that could not be handled when they arrived. `waiting`: an earlier version must come first. `retrying`: its reaction failed.
-- `dead`: it failed too often, and holds back its own subject until an operator replays or discards it.
create table retry (
    id uuid primary key,
    source text not null,
    subject text not null,
    version bigint not null,
    kind text not null,
    body text not null,
    state text not null check (state in ('waiting', 'retrying', 'dead', 'discarded')),
    attempts bigint not null,
    failures bigint not null,
    next_attempt_at bigint not null,
    created_at bigint not null,
    last_error text,
    unique (source, subject, version)
);
create index retry_due on retry (next_attempt_at) where state in ('waiting', 'retrying');

create table saga (
    id uuid primary key,
    kind text not null,
    definition_version bigint not null,
    business_key text not null,
    state text not null check (state in ('running', 'compensating', 'parked', 'completed', 'compensated', 'abandoned')),
    step text not null,
    payload text not null,
    -- The command under way, as it was first sent; null before the first decision and after the last.
    command text,
    command_id uuid,
    lease_owner text,
    lease_token bigint not null,
    lease_until bigint not null,
    next_run_at bigint not null,
    attempts bigint not null,
    failures bigint not null,
    deadline_at bigint,
    deadline_told boolean not null,
    signal text,
    -- An operator requested its compensation and the definition has not got the request yet.
    compensate_asked boolean not null,
    parked_reason text,
    -- The state a parked saga returns to.
    parked_state text,
    last_error text,
    traceparent text,
    created_at bigint not null,
    updated_at bigint not null,
    -- In this order it also finds the sagas about a key, of any kind.
    unique (business_key, kind)
);
create index saga_due on saga (next_run_at) where state in ('running', 'compensating');
create index saga_by_state on saga (state, id);

create table saga_log (
    saga_id uuid not null references saga (id),
    seq bigint not null,
    at bigint not null,
    entry text not null,
    step text not null,
    detail text not null,
    primary key (saga_id, seq)
);

create table lease (
    name text primary key,
    owner text not null,
    token bigint not null,
    until bigint not null
);

create table audit (
    id uuid primary key,
    at bigint not null,
    actor text not null,
    action text not null,
    target text not null,
    reason text not null,
    comment text
);
create index audit_at on audit (at);
