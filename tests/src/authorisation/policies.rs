//! Who may do what: the policy of every operation. A route without a row here fails the matrix, and so does a row without a route.

use Who::{
    Anyone, Customer, LoggedIn, Mailed, Ops, Owner, OwnerOrStaff, OwnerOrTicket, OwningCustomer, SelfOrStaff, Signed,
    Staff,
};

/// A caller, as seen from an object that belongs to [`Caller::Owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Without a token.
    Anonymous,
    /// The customer whose object it is.
    Owner,
    /// Another customer.
    Stranger,
    /// Role `staff`, and no other.
    Clerk,
    /// Role `ops`, and no other.
    Operator,
}

impl Caller {
    pub const ALL: [Caller; 5] = [
        Caller::Anonymous,
        Caller::Owner,
        Caller::Stranger,
        Caller::Clerk,
        Caller::Operator,
    ];
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Also without a token.
    Anyone,
    /// No token is accepted; the caller must have signed the body.
    Signed,
    /// No token of a session is needed; the caller must have got a token by mail.
    Mailed,
    /// Any user; for their own data or public data.
    LoggedIn,
    /// Role `customer`; for new objects or their own.
    Customer,
    Staff,
    Ops,
    /// The object's owner and staff; for others the object does not exist.
    OwnerOrStaff,
    /// The object's owner alone; for others the object does not exist.
    Owner,
    /// As [`Who::Owner`]; a ticket that the owner got replaces the token.
    OwnerOrTicket,
    /// As [`Who::Owner`], with the role `customer`, which is checked first.
    OwningCustomer,
    /// A filter by user: one's own id, or any for staff. It names a user and not an object, so others get 403.
    SelfOrStaff,
}

/// What a cell of the matrix must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Allowed,
    /// 401 or 403, before anything else is checked.
    Refused(u16),
    /// As if the object did not exist.
    Missing,
}

impl Who {
    pub fn expects(self, caller: Caller) -> Expected {
        use Expected::{Allowed, Missing, Refused};
        match (self, caller) {
            (Anyone, _) => Allowed,
            (Mailed, _) => Refused(422),
            (Signed, _) | (_, Caller::Anonymous) => Refused(401),
            (LoggedIn, _) => Allowed,
            (Customer, Caller::Owner | Caller::Stranger) => Allowed,
            (Staff | OwnerOrStaff | SelfOrStaff, Caller::Clerk) | (Ops, Caller::Operator) => Allowed,
            (OwnerOrStaff | Owner | OwnerOrTicket | OwningCustomer | SelfOrStaff, Caller::Owner) => Allowed,
            (OwnerOrStaff | Owner | OwnerOrTicket, _) | (OwningCustomer, Caller::Stranger) => Missing,
            (Customer | Staff | Ops | OwningCustomer | SelfOrStaff, _) => Refused(403),
        }
    }

    /// Whether the document must require a token.
    pub fn needs_token(self) -> bool {
        !matches!(self, Anyone | Mailed | Signed | OwnerOrTicket)
    }
}

/// The table: method, path as in the document (a query may follow), who may. Within an object's rows the order is that in which the allowed
/// calls succeed: a cart is filled before it is checked out.
pub const POLICIES: &[(&str, &str, Who)] = &[
    ("get", "/health/live", Anyone),
    ("get", "/health/ready", Anyone),
    ("get", "/metrics", Anyone),
    ("get", "/.well-known/jwks.json", Anyone),
    // Users.
    ("post", "/api/v1/users", Anyone),
    ("post", "/api/v1/sessions", Anyone),
    ("post", "/api/v1/sessions/refresh", Anyone),
    ("get", "/api/v1/sessions", LoggedIn),
    ("delete", "/api/v1/sessions/{id}", Owner),
    ("get", "/api/v1/users/me", LoggedIn),
    ("patch", "/api/v1/users/me", LoggedIn),
    ("put", "/api/v1/users/me/password", LoggedIn),
    ("put", "/api/v1/users/me/email", LoggedIn),
    ("post", "/api/v1/users/password-reset-requests", Anyone),
    ("post", "/api/v1/users/password-resets", Mailed),
    ("post", "/api/v1/users/email-verification-requests", Anyone),
    ("post", "/api/v1/users/email-confirmations", Mailed),
    ("get", "/api/v1/users", Staff),
    ("get", "/api/v1/users/{id}", OwnerOrStaff),
    ("put", "/api/v1/users/{id}/roles", Ops),
    ("get", "/api/v1/users/{id}/sessions", Ops),
    ("delete", "/api/v1/users/{id}/sessions/{session_id}", Ops),
    ("delete", "/api/v1/users/{id}/sessions", Ops),
    ("post", "/api/v1/users/{id}/disable", Ops),
    ("post", "/api/v1/users/{id}/enable", Ops),
    ("get", "/api/v1/notifications", LoggedIn),
    // Products and stock.
    ("get", "/api/v1/products", Anyone),
    ("get", "/api/v1/products?include_archived=true", Staff),
    ("get", "/api/v1/products/{sku}", Anyone),
    ("post", "/api/v1/products", Staff),
    ("patch", "/api/v1/products/{sku}", Staff),
    ("get", "/api/v1/stock", Staff),
    ("get", "/api/v1/stock/{sku}", Anyone),
    ("post", "/api/v1/stock/{sku}/receipts", Staff),
    ("post", "/api/v1/stock/{sku}/adjustments", Staff),
    // Carts and orders.
    ("post", "/api/v1/carts", Customer),
    ("get", "/api/v1/carts/{id}", OwningCustomer),
    ("delete", "/api/v1/carts/{id}/items/{sku}", OwningCustomer),
    ("put", "/api/v1/carts/{id}/items/{sku}", OwningCustomer),
    ("post", "/api/v1/carts/{id}/checkout", OwningCustomer),
    ("post", "/api/v1/orders", Customer),
    ("get", "/api/v1/orders", LoggedIn),
    ("get", "/api/v1/orders?user_id={owner}", SelfOrStaff),
    ("get", "/api/v1/orders/{id}", OwnerOrStaff),
    ("get", "/api/v1/orders/{id}/history", OwnerOrStaff),
    ("get", "/api/v1/orders/{id}/events", OwnerOrTicket),
    ("post", "/api/v1/orders/{id}/events/tickets", Owner),
    ("get", "/api/v1/order-details/{id}", OwnerOrStaff),
    ("get", "/api/v1/dashboard", LoggedIn),
    // Payments and shipments.
    ("get", "/api/v1/payments", LoggedIn),
    ("get", "/api/v1/payments?order_id={order}", LoggedIn),
    ("get", "/api/v1/payments/{id}", OwnerOrStaff),
    ("get", "/api/v1/payments/{id}/refunds", OwnerOrStaff),
    ("get", "/api/v1/payments/{id}/refunds/{refund_id}", OwnerOrStaff),
    ("post", "/api/v1/payments/{id}/refunds", Staff),
    ("post", "/api/v1/payments/webhooks/{provider}", Signed),
    ("get", "/api/v1/shipments", Staff),
    ("get", "/api/v1/shipments/{id}", OwnerOrStaff),
    ("post", "/api/v1/shipments/{id}/dispatch", Staff),
    ("post", "/api/v1/shipments/{id}/deliver", Staff),
    // Now that the parcel has left, a cancel changes nothing; and an archived product refuses what came before.
    ("post", "/api/v1/orders/{id}/cancel", OwnerOrStaff),
    ("delete", "/api/v1/products/{sku}", Staff),
    // Operations.
    ("get", "/api/v1/ops/modules", Ops),
    ("get", "/api/v1/ops/orders/views", Ops),
    ("post", "/api/v1/ops/orders/views/rebuild", Ops),
    ("get", "/api/v1/ops/{module}/audit", Ops),
    ("get", "/api/v1/ops/{module}/outbox", Ops),
    ("get", "/api/v1/ops/{module}/outbox/{id}", Ops),
    ("get", "/api/v1/ops/{module}/sagas", Ops),
    ("get", "/api/v1/ops/{module}/sagas/{id}", Ops),
    ("post", "/api/v1/ops/{module}/sagas/{id}/retry", Ops),
    ("post", "/api/v1/ops/{module}/sagas/{id}/compensate", Ops),
    ("post", "/api/v1/ops/{module}/sagas/{id}/abandon", Ops),
    ("post", "/api/v1/ops/{module}/sagas/{id}/leftovers/{undo}", Ops),
    ("get", "/api/v1/ops/{module}/dead-letters", Ops),
    ("get", "/api/v1/ops/{module}/dead-letters/{id}", Ops),
    ("post", "/api/v1/ops/{module}/dead-letters/{id}/discard", Ops),
    ("post", "/api/v1/ops/{module}/dead-letters/{id}/retry", Ops),
    ("get", "/api/v1/ops/{module}/subscribers", Ops),
    ("post", "/api/v1/ops/{module}/subscribers/{subscriber}/give-up", Ops),
    // Last: the callers log out.
    ("delete", "/api/v1/sessions/current", LoggedIn),
];
