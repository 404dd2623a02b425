-- Since when the email address is known to reach its user.
alter table users add column email_verified_at bigint;

-- A mail about an account that is to be sent, or was. The address and the token of a mail are in no event: notifications gets them when it sends.
create table account_mail (
    id uuid primary key,
    user_id uuid not null references users (id),
    kind text not null,
    -- The address it goes to. A change of the address goes to the new one, the news of it to the old one.
    address text not null,
    requested_at bigint not null,
    -- Neither is it sent after this, nor is one of its tokens valid.
    expires_at bigint not null
);
-- The latest mails of a user, which are limited in number.
create index account_mail_of_user on account_mail (user_id, kind, requested_at);
create index account_mail_expiry on account_mail (expires_at);

-- The tokens of a mail, one for each attempt to send it. A token has 256 random bits; only its SHA-256 is stored.
create table account_token (
    hash text primary key,
    mail_id uuid not null references account_mail (id)
);
create index account_token_of_mail on account_token (mail_id);
