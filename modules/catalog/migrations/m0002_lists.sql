-- Lists show active products, among ever more archived ones.
create index product_active_newest on product (active, created_at, sku);
create index product_active_by_category on product (category, active, created_at, sku);
-- The best-selling products, in the order in which they are shown; many have sold equally often.
create index product_sales_best_first on product_sales (units desc, sku);
drop index product_sales_best;
