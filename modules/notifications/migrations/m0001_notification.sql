-- What is told to a user by mail: written by a reaction, sent by a worker, shown to its user.
create table notification (
    id uuid primary key,
    -- The event behind it. One event is one mail, however often it is heard.
    cause uuid not null unique,
    user_id uuid not null,
    kind text not null check (kind in (
        'order_placed', 'order_confirmed', 'order_cancelled', 'order_shipped', 'order_delivered', 'payment_refunded', 'welcome'
    )),
    subject text not null,
    body text not null,
    -- The address it went to; asked for when it is sent, so null before.
    recipient text,
    status text not null check (status in ('queued', 'sent', 'captured', 'failed')),
    attempts bigint not null,
    refusals bigint not null,
    -- When a queued one is due. Whoever claims it puts this off by the length of a lease, so that a sender that dies holds nothing back.
    next_attempt_at bigint not null,
    -- Raised by every claim; a sender's result counts only under the token it claimed with.
    lease_token bigint not null,
    traceparent text,
    created_at bigint not null,
    sent_at bigint,
    last_error text,
    check ((status = 'sent') = (sent_at is not null)),
    check (status not in ('sent', 'captured') or recipient is not null),
    check (status <> 'failed' or last_error is not null)
);
create index notification_due on notification (next_attempt_at) where status = 'queued';
create index notification_of_user on notification (user_id, id);
