-- The refunds of a payment are listed by the time they were requested.
create index money_command_refund on money_command (payment_id, created_at, id) where kind = 'refund' and started_at is not null;
