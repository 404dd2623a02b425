-- Due mails are read in this order. By the time alone, all new mails of a backlog would be sorted for each of its batches.
drop index notification_due;
create index notification_due on notification (next_attempt_at, id) where status = 'queued';
