create table product (
    sku text primary key,
    name text not null,
    description text not null,
    category text not null,
    price_amount bigint not null check (price_amount >= 0),
    currency text not null,
    active boolean not null,
    version bigint not null,
    created_at bigint not null,
    -- Name and description in lower case, computed by the module: the two databases differ in lower-casing beyond ASCII.
    search_text text not null
);
create index product_newest on product (created_at, sku);
create index product_by_category on product (category, created_at, sku);

-- The units of each product in confirmed orders, counted from the events of orders. The product need not exist in this catalog.
create table product_sales (
    sku text primary key,
    units bigint not null check (units >= 0)
);
create index product_sales_best on product_sales (units);
