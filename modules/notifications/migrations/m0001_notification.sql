-- A mail to a user: queued by a reaction, sent by a worker, shown to its user.
create table notification (
    id uuid primary key,
    -- The event that caused it. An event causes one mail, even if it is received repeatedly.
    cause uuid not null unique,
    user_id uuid not null,
    kind text not null check (kind in (
        'order_placed', 'order_confirmed', 'order_cancelled', 'order_shipped', 'order_delivered', 'payment_refunded', 'welcome'
    )),
    subject text not null,
    body text not null,
    -- The address it was sent to. It is looked up when the mail is sent, so it is null before.
    recipient text,
    status text not null check (status in ('queued', 'sent', 'captured', 'failed')),
    attempts bigint not null,
    refusals bigint not null,
    -- When a queued mail is due. A claim postpones it by the duration of the lease, so that a mail whose sender dies is sent by another.
    next_attempt_at bigint not null,
    -- Incremented by every claim. An outcome counts only with the token of the latest claim.
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
