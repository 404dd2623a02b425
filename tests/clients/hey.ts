// Buys something with the client that hey-api generated. scripts/openapi-clients.sh runs it.
import assert from "node:assert";
import { randomUUID } from "node:crypto";
import { listProducts, logIn, type NewOrder, placeOrder, showOrder } from "./hey-api";
import { client } from "./hey-api/client.gen";

client.setConfig({ baseUrl: process.argv[2] as `http://${string}` });
const session = await logIn({ body: { email: "demo@banyan.example", password: "banyan-demo" } });
assert(session.data, JSON.stringify(session.error));
const token = session.data.access_token;
client.setConfig({ auth: () => token });
const products = await listProducts({ query: { limit: 1 } });
const product = products.data?.items[0];
assert(product);

const order: NewOrder = {
  items: [{ sku: product.sku, quantity: 2 }],
  payment_method: "pm_card_visa",
  shipping_address: { name: "Ada Lovelace", line1: "12 St James's Square", city: "London", postal_code: "SW1Y 4LB", country: "GB" },
};
const place = (body: NewOrder, key: string) => placeOrder({ body, headers: { "Idempotency-Key": key, Prefer: "wait=20" } });
const key = randomUUID();
const placed = await place(order, key);
assert(placed.data, JSON.stringify(placed.error));
assert.equal(placed.data.total.amount, 2 * product.price.amount);
const again = await place(order, key);
assert.equal(again.response?.headers.get("Idempotency-Replayed"), "true");
const shown = await showOrder({ path: { id: placed.data.id } });
assert.equal(shown.data?.status, "confirmed");
const refused = await place({ ...order, items: [{ sku: "no-such-product", quantity: 1 }] }, randomUUID());
assert.equal(refused.error?.code, "product_unavailable");
