-- Who gave the command, as `user:<id>` or `module:<name>`: with the amount, the times and the payment's user it is the audit row of the command. Null in
-- commands of earlier versions, and in tombstones.
alter table money_command add column actor text;
