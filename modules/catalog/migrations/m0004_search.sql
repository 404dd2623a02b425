-- The grams by which a search finds products, computed by the module: three letters in a row of each word, and its first ones. The index of them is each
-- database's own, and needs no extension.
-- postgres
create table product_search (
    sku text primary key,
    -- Separated by spaces.
    grams text not null
);
create index product_search_grams on product_search using gin (string_to_array(grams, ' ')) with (fastupdate = off);
-- A search reads the index whatever the planner expects of it: a few common grams, which hardly ever occur together, make it read the whole table.
create function skus_with_grams(wanted text, most bigint) returns setof text language sql stable rows 100
    set enable_seqscan = off set enable_indexscan = off set enable_indexonlyscan = off
as $$
    select sku from product_search where string_to_array(grams, ' ') @> string_to_array(wanted, ' ') limit most
$$;
-- end
-- sqlite
create table product_search (
    -- A rowid that stays the same when the file is vacuumed.
    number integer primary key,
    sku text not null unique,
    grams text not null
);
create virtual table product_gram using fts5 (
    grams, content = 'product_search', content_rowid = 'number', detail = none, columnsize = 0, tokenize = 'ascii'
);
create trigger product_search_inserted after insert on product_search begin
    insert into product_gram (rowid, grams) values (new.number, new.grams);
end;
create trigger product_search_deleted after delete on product_search begin
    insert into product_gram (product_gram, rowid, grams) values ('delete', old.number, old.grams);
end;
create trigger product_search_updated after update on product_search begin
    insert into product_gram (product_gram, rowid, grams) values ('delete', old.number, old.grams);
    insert into product_gram (rowid, grams) values (new.number, new.grams);
end;
-- end
-- Products whose text was stored by an earlier version: it does not begin with a space. They are indexed at the next start.
create index product_not_indexed on product (sku) where search_text not like ' %';
