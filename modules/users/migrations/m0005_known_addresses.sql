-- The network addresses that an account logged in from, whose attempts are not delayed by failures from elsewhere: the latest 20 of each account.
create table known_address (
    -- As in login_failure.
    account text not null,
    address text not null,
    last_login_at bigint not null,
    primary key (account, address)
);
create index known_address_latest on known_address (account, last_login_at);
create index known_address_age on known_address (last_login_at);
-- Whether the account had logged in from the address before: such a failure does not delay others behind the address.
alter table login_failure add column known_address boolean not null default false;
