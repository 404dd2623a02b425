"""Buys something with the client that openapi-python-client generated. scripts/openapi-clients.sh runs it."""

import sys
import uuid

from banyan_client import AuthenticatedClient, Client
from banyan_client.api.catalog import list_products
from banyan_client.api.orders import place_order, show_order
from banyan_client.api.sessions import log_in
from banyan_client.models import Address, Country, Credentials, NewOrder, Order, OrderLine, Problem

url = sys.argv[1]
anyone = Client(base_url=url)
session = log_in.sync(client=anyone, body=Credentials(email="demo@banyan.example", password="banyan-demo"))
customer = AuthenticatedClient(base_url=url, token=session.access_token)
product = list_products.sync(client=anyone, limit=1).items[0]

address = Address(name="Ada Lovelace", line1="12 St James's Square", city="London", postal_code="SW1Y 4LB", country=Country.GB)
order = NewOrder(items=[OrderLine(sku=product.sku, quantity=2)], payment_method="pm_card_visa", shipping_address=address)
key = str(uuid.uuid4())
placed = place_order.sync_detailed(client=customer, body=order, idempotency_key=key, prefer="wait=20")
assert placed.status_code == 201 and isinstance(placed.parsed, Order), placed
assert placed.parsed.total.amount == 2 * product.price.amount, placed.parsed
again = place_order.sync_detailed(client=customer, body=order, idempotency_key=key, prefer="wait=20")
assert again.headers["Idempotency-Replayed"] == "true" and again.parsed.id == placed.parsed.id, again
assert show_order.sync(client=customer, id=placed.parsed.id).status == "confirmed"

order.items[0].sku = "no-such-product"
refused = place_order.sync(client=customer, body=order, idempotency_key=str(uuid.uuid4()))
assert isinstance(refused, Problem) and refused.code == "product_unavailable", refused
