-- The orders of one user in one status.
create index order_view_by_user_and_status on order_view (user_id, status, created_at, id);
