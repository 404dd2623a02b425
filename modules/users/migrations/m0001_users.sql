create table users (
    id uuid primary key,
    -- As the user writes it; found and kept unique by its lower-case form.
    email text not null,
    email_lower text not null unique,
    name text not null,
    -- A PHC string: it says with which parameters it was made.
    password_hash text not null,
    -- JSON: the roles' names.
    roles text not null,
    -- JSON: the addresses, in the user's order.
    addresses text not null,
    version bigint not null check (version >= 1),
    created_at bigint not null,
    updated_at bigint not null
);
create index users_newest on users (created_at, id);

-- One log-in, and everything refreshed from it: a family of refresh tokens.
create table session (
    id uuid primary key,
    user_id uuid not null references users (id),
    created_at bigint not null,
    revoked_at bigint,
    revoked_reason text check (revoked_reason in ('logged_out', 'token_reused')),
    check ((revoked_at is null) = (revoked_reason is null))
);
create index session_by_user on session (user_id);

-- Refresh tokens are 256 random bits; only their SHA-256 is kept. A rotated one stays until it expires, so that its reuse is recognised.
create table refresh_token (
    hash text primary key,
    session_id uuid not null references session (id),
    issued_at bigint not null,
    expires_at bigint not null,
    rotated_at bigint
);
create index refresh_token_session on refresh_token (session_id);
create index refresh_token_expiry on refresh_token (expires_at);

-- Ed25519 keys that access tokens are signed with: one signs, retired ones are still believed.
create table signing_key (
    kid text primary key,
    -- The private key's 32 bytes, base64url without padding.
    seed text not null,
    state text not null check (state in ('signing', 'retired')),
    created_at bigint not null
);
create unique index signing_key_one_signs on signing_key (state) where state = 'signing';

-- Log-ins of the last minute that failed or are being checked.
create table login_failure (
    id uuid primary key,
    -- SHA-256 of the lower-case email that was given, whether or not there is such a user.
    account text not null,
    address text not null,
    failed_at bigint not null
);
create index login_failure_account on login_failure (account, failed_at);
create index login_failure_address on login_failure (address, failed_at);
create index login_failure_age on login_failure (failed_at);
