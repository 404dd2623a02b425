//! The objects of the matrix, all of one customer, and the callers that try to reach them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::policies::{Caller, POLICIES, Who};
use crate::{
    data,
    harness::{Client, Shop, new_key, order_body},
    scenarios::{eventually, new_product},
};

const PASSWORD: &str = "correct horse battery";

pub struct Objects {
    callers: Vec<(Caller, Client)>,
    emails: Vec<(Caller, String)>,
    /// A product that the matrix may change.
    pub sku: String,
    pub owner: String,
    /// A session of the owner that the matrix may end.
    session: String,
    /// A user whose account the operator's powers are tried on, and a session of theirs.
    account: String,
    account_session: String,
    pub cart: String,
    pub order: String,
    payment: String,
    refund: String,
    shipment: String,
    saga: String,
    event: String,
    dead_letter: String,
    /// The first object of each collection that all may list, by the collection's name.
    listed: BTreeMap<String, String>,
}

impl Objects {
    pub async fn make(shop: &Shop) -> Objects {
        let client = shop.client();
        let sku = new_product(&client, 1_000, 50).await;
        let (owner_email, owner) = register(&client).await;
        let (stranger_email, stranger) = register(&client).await;
        let (account_email, account) = register(&client).await;
        let (staff, ops) = (client.staff().await, client.ops().await);

        let cart = id(&owner.post("/api/v1/carts", &json!({})).await.expect(201).json());
        owner
            .send(
                reqwest::Method::PUT,
                &format!("/api/v1/carts/{cart}/items/{sku}"),
                &[],
                Some(&json!({"quantity": 1})),
            )
            .await
            .expect(200);
        let order = owner.order(&sku, 2, "pm_card_visa").await;
        assert_eq!(order["status"], "confirmed", "{order}");
        let payment = id(&order["payment"]);
        let refund = json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "a bruise"});
        let refund = id(&staff
            .post_keyed(&format!("/api/v1/payments/{payment}/refunds"), &refund)
            .await
            .expect(201)
            .json());
        let shipment = id(&order["shipment"]);
        let sagas = ops
            .get(&format!("/api/v1/ops/orders/sagas?business_key={}", id(&order)))
            .await
            .expect(200)
            .json();
        let events = ops.get("/api/v1/ops/orders/outbox").await.expect(200).json();

        let objects = Objects {
            session: another_session(&owner, &owner_email).await,
            account: id(&account.get("/api/v1/users/me").await.expect(200).json()),
            account_session: another_session(&account, &account_email).await,
            sku,
            owner: id(&owner.get("/api/v1/users/me").await.expect(200).json()),
            cart,
            order: id(&order),
            payment,
            refund,
            shipment,
            saga: id(&sagas["items"][0]),
            event: id(&events["items"][0]),
            dead_letter: dead_letter(shop).await,
            listed: first_objects(&client).await,
            callers: vec![
                (Caller::Anonymous, client.clone()),
                (Caller::Owner, owner),
                (Caller::Stranger, stranger),
                (Caller::Clerk, staff),
                (Caller::Operator, ops),
            ],
            emails: vec![
                (Caller::Anonymous, owner_email.clone()),
                (Caller::Owner, owner_email),
                (Caller::Stranger, stranger_email),
                (Caller::Clerk, "staff@banyan.example".to_owned()),
                (Caller::Operator, "ops@banyan.example".to_owned()),
            ],
        };
        objects.become_quiet().await;
        objects
    }

    /// Waits until nothing changes by itself any more.
    async fn become_quiet(&self) {
        let ops = self.client(Caller::Operator);
        let staff = self.client(Caller::Clerk);
        let saga = format!("/api/v1/ops/orders/sagas/{}", self.saga);
        eventually(ops, &saga, "the checkout is completed", |saga| {
            saga["state"] == "completed"
        })
        .await;
        let shipment = format!("/api/v1/shipments/{}", self.shipment);
        eventually(staff, &shipment, "the shipment is ready", |shipment| {
            shipment["status"] == "ready"
        })
        .await;
        let refund = format!("/api/v1/payments/{}/refunds/{}", self.payment, self.refund);
        eventually(staff, &refund, "the refund is done", |refund| {
            refund["status"] == "succeeded"
        })
        .await;
        for module in ["inventory", "payments", "shipping", "orders"] {
            let pending = format!("/api/v1/ops/{module}/outbox?state=pending");
            eventually(ops, &pending, "every event is sent", |list| list["items"] == json!([])).await;
        }
        // An event counts as sent when its subscribers have committed, so nothing changes from now on.
    }

    pub fn client(&self, caller: Caller) -> &Client {
        of(&self.callers, caller)
    }

    /// The state of all objects, read by callers with permission, to compare before and after.
    pub async fn snapshot(&self) -> Value {
        let (staff, owner, ops) = (
            self.client(Caller::Clerk),
            self.client(Caller::Owner),
            self.client(Caller::Operator),
        );
        let mut snapshot = Vec::new();
        for path in [
            format!("/api/v1/orders/{}", self.order),
            format!("/api/v1/orders/{}/history", self.order),
            format!("/api/v1/payments/{}", self.payment),
            format!("/api/v1/payments/{}/refunds", self.payment),
            format!("/api/v1/shipments/{}", self.shipment),
            format!("/api/v1/users/{}", self.owner),
            format!("/api/v1/products/{}", self.sku),
            format!("/api/v1/stock/{}", self.sku),
        ] {
            snapshot.push(json!([path, staff.get(&path).await.expect(200).json()]));
        }
        snapshot.push(
            owner
                .get(&format!("/api/v1/carts/{}", self.cart))
                .await
                .expect(200)
                .json(),
        );
        for path in [
            format!("orders/sagas/{}", self.saga),
            format!("notifications/dead-letters/{}", self.dead_letter),
        ] {
            snapshot.push(ops.get(&format!("/api/v1/ops/{path}")).await.expect(200).json());
        }
        json!(snapshot)
    }

    /// Texts that show that a response contains the owner's data.
    pub fn marks(&self) -> [&str; 8] {
        let email = of(&self.emails, Caller::Owner);
        [
            &self.owner,
            &self.cart,
            &self.order,
            &self.payment,
            &self.refund,
            &self.shipment,
            &self.saga,
            email,
        ]
    }

    /// A row's path with the owner's objects in it.
    pub fn path(&self, template: &str) -> String {
        let collection = collection_of(template);
        let object = match collection {
            "users" if template.contains("/sessions") || template.ends_with("able") => &self.account,
            "sessions" => &self.session,
            "users" => &self.owner,
            "carts" => &self.cart,
            "payments" => &self.payment,
            "shipments" => &self.shipment,
            "ops" if template.contains("/sagas") => &self.saga,
            "ops" if template.contains("/outbox") => &self.event,
            "ops" => &self.dead_letter,
            _ => self.listed.get(collection).unwrap_or(&self.order),
        };
        let module = if template.contains("/dead-letters") {
            "notifications"
        } else {
            "orders"
        };
        let filled = [
            ("{id}", object.as_str()),
            ("{refund_id}", &self.refund),
            ("{session_id}", &self.account_session),
            ("{sku}", &self.sku),
            ("{module}", module),
            ("{undo}", "refund_payment"),
            ("{subscriber}", "catalog"),
            ("{provider}", "sandbox"),
            ("{owner}", &self.owner),
            ("{order}", &self.order),
        ];
        filled
            .iter()
            .fold(template.to_owned(), |path, (name, value)| path.replace(name, value))
    }

    /// The same path with ids of objects that do not exist.
    pub fn missing(&self, template: &str) -> String {
        let missing = Uuid::now_v7().to_string();
        self.path(
            &["{id}", "{refund_id}", "{owner}", "{order}"]
                .iter()
                .fold(template.to_owned(), |path, name| path.replace(name, &missing)),
        )
    }

    /// A body that the operation accepts, if it is about these objects.
    pub async fn body(&self, method: &str, template: &str, caller: Caller) -> Option<Value> {
        let reason = || json!({"reason": "the matrix"});
        Some(match (method, template.trim_start_matches("/api/v1")) {
            ("post", "/users") => json!({"email": new_email(), "password": PASSWORD, "name": "Somebody New"}),
            ("post", "/sessions") => self.credentials(caller),
            ("post", "/sessions/refresh") => {
                let session = self
                    .client(Caller::Anonymous)
                    .post("/api/v1/sessions", &self.credentials(caller))
                    .await
                    .expect(201)
                    .json();
                json!({"refresh_token": session["refresh_token"]})
            }
            ("put", "/users/me/password") => {
                let password = &self.credentials(caller)["password"];
                json!({"current_password": password, "new_password": password})
            }
            ("put", "/users/me/email") => {
                json!({"email": new_email(), "current_password": self.credentials(caller)["password"]})
            }
            ("post", "/users/password-resets") => json!({"token": "of-no-mail", "new_password": PASSWORD}),
            ("post", "/users/email-confirmations") => json!({"token": "of-no-mail"}),
            ("post", "/users/password-reset-requests" | "/users/email-verification-requests") => {
                json!({"email": new_email()})
            }
            ("post", "/users/{id}/disable" | "/users/{id}/enable") => reason(),
            ("patch", "/users/me") => json!({"name": "Somebody Else"}),
            ("put", "/users/{id}/roles") => json!({"roles": ["customer"]}),
            ("post", "/products") => {
                let sku = format!("test-{}", &Uuid::new_v4().simple().to_string()[..16]);
                json!({"sku": sku, "name": "A Fig", "category": "figs", "price": {"amount": 5, "currency": "EUR"}})
            }
            ("patch", "/products/{sku}") => json!({"name": "A Renamed Fig"}),
            ("post", "/stock/{sku}/receipts" | "/stock/{sku}/adjustments") => json!({"quantity": 1}),
            ("put", "/carts/{id}/items/{sku}") => json!({"quantity": 2}),
            ("post", "/carts/{id}/checkout") => {
                let order = order_body(&self.sku, 1, "pm_card_visa");
                json!({"shipping_address": order["shipping_address"], "payment_method": order["payment_method"]})
            }
            ("post", "/orders") => order_body(&self.sku, 1, "pm_card_visa"),
            ("post", "/payments/{id}/refunds") => {
                json!({"amount": {"amount": 1, "currency": "EUR"}, "reason": "the matrix"})
            }
            ("post", "/payments/webhooks/{provider}") => {
                json!({"id": Uuid::new_v4(), "reference": Uuid::new_v4(), "answer": {"accepted": {"id": "auth_1"}}})
            }
            ("post", path) if path.starts_with("/ops/") => reason(),
            _ => return None,
        })
    }

    fn credentials(&self, caller: Caller) -> Value {
        let email = of(&self.emails, caller);
        let password = if email.ends_with("@banyan.example") {
            "banyan-demo"
        } else {
            PASSWORD
        };
        json!({"email": email, "password": password})
    }
}

/// The id of a new session of a user, beside that of `client`.
async fn another_session(client: &Client, email: &str) -> String {
    client.log_in_with(email, PASSWORD).await;
    let sessions = client.get("/api/v1/sessions").await.expect(200).json();
    id(&sessions["items"][0])
}

/// `orders` of `/api/v1/orders/{id}`.
fn collection_of(template: &str) -> &str {
    let path = template.trim_start_matches("/api/v1/");
    path.split('/').next().unwrap_or_default()
}

/// Collections that anybody may list, and whose objects have an id, contain demo data: the first object of each stands for all.
async fn first_objects(client: &Client) -> BTreeMap<String, String> {
    let mut first = BTreeMap::new();
    for (_, template, _) in POLICIES
        .iter()
        .filter(|(method, template, _)| *method == "get" && template.ends_with("/{id}"))
    {
        let list = template.trim_end_matches("/{id}");
        if POLICIES.contains(&("get", list, Who::Anyone)) {
            let page = client.get(list).await.expect(200).json();
            first.insert(collection_of(template).to_owned(), id(&page["items"][0]));
        }
    }
    first
}

fn of<T>(all: &[(Caller, T)], caller: Caller) -> &T {
    &all.iter()
        .find(|(is, _)| *is == caller)
        .expect("every caller is there")
        .1
}

fn id(object: &Value) -> String {
    object["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id in {object}"))
        .to_owned()
}

fn new_email() -> String {
    format!("customer-{}@shop.example", Uuid::new_v4().simple())
}

async fn register(client: &Client) -> (String, Client) {
    let email = new_email();
    client
        .post(
            "/api/v1/users",
            &json!({"email": email, "password": PASSWORD, "name": "Ada Fig"}),
        )
        .await
        .expect(201);
    let customer = client.log_in_with(&email, PASSWORD).await;
    (email, customer)
}

/// An event that notifications could not handle. Only a bug produces one, so the test inserts it into the table.
async fn dead_letter(shop: &Shop) -> String {
    let id = Uuid::now_v7();
    let connection = data::connect(&shop.directory(), shop.database_url().as_deref(), "notifications").await;
    let literal = match shop.database_url() {
        Some(_) => format!("'{id}'"),
        None => format!("x'{}'", id.simple()),
    };
    let row = format!(
        "({literal}, 'orders', 'order/{}', 1, 'banyan.orders.v1.Unheard', '{{}}', 'dead', 5, 5, 0, 0, 'a bug')",
        new_key()
    );
    let columns =
        "id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error";
    data::execute(&connection, &format!("insert into retry ({columns}) values {row}"))
        .await
        .expect("a dead letter");
    connection.close().await;
    id.to_string()
}
