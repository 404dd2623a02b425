-- When a shipment entered each status. Each is entered at most once, so the history is part of the shipment's row, and one statement writes both.
-- It was scheduled at `created_at`.
alter table shipment add column ready_at bigint;
alter table shipment add column dispatched_at bigint;
alter table shipment add column delivered_at bigint;
alter table shipment add column cancelled_at bigint;
update shipment set
    ready_at = (select max(step.at) from shipment_step step where step.shipment_id = shipment.id and step.status = 'ready'),
    dispatched_at = (select max(step.at) from shipment_step step where step.shipment_id = shipment.id and step.status = 'dispatched'),
    delivered_at = (select max(step.at) from shipment_step step where step.shipment_id = shipment.id and step.status = 'delivered'),
    cancelled_at = (select max(step.at) from shipment_step step where step.shipment_id = shipment.id and step.status = 'cancelled');
-- The former table of steps stays, because a binary of the version before may still write to it.
