-- Commands without an outcome are few among very many that have one, and are counted whenever the books are compared.
create index money_command_without_outcome on money_command (id) where state in ('requested', 'started');
