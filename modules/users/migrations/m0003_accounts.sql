-- A disabled user cannot log in.
alter table users add column disabled_at bigint;

-- The sessions of a user, newest first.
create index session_of_user on session (user_id, created_at, id);
