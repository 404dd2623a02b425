create table users (
    id uuid primary key,
    -- As the user wrote it. Its lower-case form is unique and used for look-ups.
    email text not null,
    email_lower text not null unique,
    name text not null,
    -- A PHC string, which includes the parameters of the hash.
    password_hash text not null,
    -- JSON: the names of the roles.
    roles text not null,
    -- JSON: the addresses, in the order the user chose.
    addresses text not null,
    version bigint not null check (version >= 1),
    created_at bigint not null,
    updated_at bigint not null
);
create index users_newest on users (created_at, id);

-- A log-in and the refresh tokens issued from it.
create table session (
    id uuid primary key,
    user_id uuid not null references users (id),
    created_at bigint not null,
    revoked_at bigint,
    revoked_reason text check (revoked_reason in ('logged_out', 'token_reused')),
    check ((revoked_at is null) = (revoked_reason is null))
);
create index session_by_user on session (user_id);

-- A refresh token has 256 random bits; only its SHA-256 is stored. A rotated token is kept until it expires, so that its reuse is detected.
create table refresh_token (
    hash text primary key,
    session_id uuid not null references session (id),
    issued_at bigint not null,
    expires_at bigint not null,
    rotated_at bigint
);
create index refresh_token_session on refresh_token (session_id);
create index refresh_token_expiry on refresh_token (expires_at);

-- Ed25519 keys of access tokens: one signs, signatures of retired ones are still accepted.
create table signing_key (
    kid text primary key,
    -- The private key's 32 bytes, base64url without padding.
    seed text not null,
    state text not null check (state in ('signing', 'retired')),
    created_at bigint not null
);
create unique index signing_key_one_signs on signing_key (state) where state = 'signing';

-- Log-ins of the last minute that failed or are being verified.
create table login_failure (
    id uuid primary key,
    -- The SHA-256 of the lower-case email address of the request, whether or not there is such a user.
    account text not null,
    address text not null,
    failed_at bigint not null
);
create index login_failure_account on login_failure (account, failed_at);
create index login_failure_address on login_failure (address, failed_at);
create index login_failure_age on login_failure (failed_at);
