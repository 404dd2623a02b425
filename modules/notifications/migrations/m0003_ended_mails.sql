-- Mails that were sent, captured or given up, by their age: what was ended long ago is deleted.
create index notification_ended on notification (created_at) where status <> 'queued';
