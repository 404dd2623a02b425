-- The command that scheduled the shipment: so a repetition is recognised, and its undo finds the shipment, when the command itself is forgotten.
alter table shipment add column command_id uuid;
