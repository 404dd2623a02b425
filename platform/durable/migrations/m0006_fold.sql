-- Finished sagas whose state and log are not deleted yet, the oldest first.
create index saga_to_fold on saga (state, updated_at) where state in ('completed', 'compensated') and payload <> '';
