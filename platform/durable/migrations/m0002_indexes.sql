-- Operators look for what is not sent yet, the newest first, among very many sent events.
create index outbox_pending_by_id on outbox (id) where state = 'pending';
-- The audit log is read in the order of its ids.
drop index audit_at;
