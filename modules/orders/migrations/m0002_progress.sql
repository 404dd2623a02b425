-- What the rules know of an order beside what its view shows, as JSON: with it a decision needs the view's row alone and not the events. Null in a row
-- of an earlier version, whose events are then folded.
alter table order_view add column progress text;
