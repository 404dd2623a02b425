-- The operators are found, and locked, whenever the power of one is exercised.
create index users_operators on users (id) where roles like '%"ops"%';

-- Why a session was revoked. `revoked_reason` admits the two reasons of the first version alone, and older processes read it.
alter table session add column end_reason text;
