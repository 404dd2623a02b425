-- The revision of the products, changed in every transaction that changes one, whoever runs it: pages in the memory of several processes are compared
-- with it. Random, so that it never comes again after a restored backup. Empty on SQLite, where one process alone writes, and knows.
-- Kept for ever: one row.
create table product_revision (
    one boolean primary key default true check (one),
    revision uuid not null
);
-- postgres
insert into product_revision (revision) values (gen_random_uuid());
create function change_product_revision() returns trigger language plpgsql as $$
begin
    -- By the schema's name, because whoever edits a product by hand may have another search path.
    execute format('update %I.product_revision set revision = gen_random_uuid()', tg_table_schema);
    return null;
end $$;
create trigger product_revision after insert or update or delete or truncate on product
    for each statement execute function change_product_revision();
-- end
