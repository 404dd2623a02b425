-- Operators look for the dead letters among very many discarded ones, and the discarded ones are deleted after a time.
create index retry_by_state on retry (state, id);
