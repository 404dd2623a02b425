// Buys something with the types of openapi-typescript and openapi-fetch. scripts/openapi-clients.sh runs it.
import assert from "node:assert";
import { randomUUID } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

const baseUrl = process.argv[2];
const anyone = createClient<paths>({ baseUrl });
const session = await anyone.POST("/api/v1/sessions", { body: { email: "demo@banyan.example", password: "banyan-demo" } });
assert(session.data, JSON.stringify(session.error));
const customer = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${session.data.access_token}` } });
const products = await anyone.GET("/api/v1/products", { params: { query: { limit: 1 } } });
const product = products.data?.items[0];
assert(product);

const order: components["schemas"]["NewOrder"] = {
  items: [{ sku: product.sku, quantity: 2 }],
  payment_method: "pm_card_visa",
  shipping_address: { name: "Ada Lovelace", line1: "12 St James's Square", city: "London", postal_code: "SW1Y 4LB", country: "GB" },
};
const place = (body: typeof order, key: string) =>
  customer.POST("/api/v1/orders", { body, params: { header: { "Idempotency-Key": key, Prefer: "wait=20" } } });
const key = randomUUID();
const placed = await place(order, key);
assert(placed.data, JSON.stringify(placed.error));
assert.equal(placed.data.total.amount, 2 * product.price.amount);
const again = await place(order, key);
assert.equal(again.response.headers.get("Idempotency-Replayed"), "true");
const shown = await customer.GET("/api/v1/orders/{id}", { params: { path: { id: placed.data.id } } });
assert.equal(shown.data?.status, "confirmed");
const refused = await place({ ...order, items: [{ sku: "no-such-product", quantity: 1 }] }, randomUUID());
assert.equal(refused.error?.code, "product_unavailable");
