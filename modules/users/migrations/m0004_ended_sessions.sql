-- The sessions that ended lately are listed every few seconds.
create index session_ended on session (revoked_at) where revoked_at is not null;
