//! The problems of the modules that clients may meet, for the OpenAPI document: a code's status and its operations.

use banyan_host::KnownProblem;

const PLACING: &[&str] = &["place_order", "check_out_cart"];
const CHANGING_A_CART: &[&str] = &["put_item", "remove_item"];
const UNDOING: &[&str] = &["undo_leftover"];

pub const PROBLEMS: &[KnownProblem] = &[
    // catalog
    KnownProblem::of(
        409,
        "sku_taken",
        "There is a product with this sku already.",
        &["add_product"],
    ),
    KnownProblem::of(
        422,
        "unknown_currency",
        "EURO is not an ISO 4217 currency code.",
        &["add_product", "change_product"],
    ),
    // users
    KnownProblem::of(
        409,
        "email_taken",
        "There is a user with this email address already.",
        &["register"],
    ),
    KnownProblem::of(422, "invalid_email", "This is not an email address.", &["register"]),
    KnownProblem::of(
        422,
        "invalid_name",
        "A name has at least one visible character.",
        &["register", "change_me"],
    ),
    KnownProblem::of(
        422,
        "invalid_password",
        "A password has 8 to 128 characters.",
        &["register", "change_password"],
    ),
    KnownProblem::of(
        401,
        "invalid_credentials",
        "The email address or the password is wrong.",
        &["log_in"],
    ),
    KnownProblem::of(
        429,
        "too_many_failed_logins",
        "Too many failed log-ins.",
        &["log_in", "change_password"],
    ),
    KnownProblem::of(403, "account_disabled", "This account is disabled.", &["log_in"]),
    KnownProblem::of(
        403,
        "wrong_password",
        "The current password is wrong.",
        &["change_password"],
    ),
    KnownProblem::of(
        409,
        "own_account",
        "Another operator must disable your account.",
        &["disable_account"],
    ),
    KnownProblem::of(
        401,
        "invalid_refresh_token",
        "The refresh token is unknown, expired, revoked or used.",
        &["refresh_session"],
    ),
    KnownProblem::of(
        409,
        "own_operations_role",
        "Nobody takes the role ops from himself.",
        &["change_roles"],
    ),
    KnownProblem::of(
        409,
        "already_refreshed",
        "This refresh token has just been exchanged by another request.",
        &["refresh_session"],
    ),
    // inventory
    KnownProblem::of(
        409,
        "below_reserved",
        "Fewer would be left than are promised to orders.",
        &["adjust_stock"],
    ),
    KnownProblem::of(
        422,
        "invalid_quantity",
        "At most 999 of one product.",
        &[
            "place_order",
            "check_out_cart",
            "put_item",
            "receive_stock",
            "adjust_stock",
        ],
    ),
    // orders
    KnownProblem::of(
        409,
        "not_a_cart",
        "This cart has been checked out.",
        &["put_item", "remove_item", "check_out_cart"],
    ),
    KnownProblem::of(
        409,
        "too_many_lines",
        "A cart holds at most 100 products.",
        &["put_item"],
    ),
    KnownProblem::of(
        409,
        "too_many_changes",
        "This cart was changed too often; begin another.",
        CHANGING_A_CART,
    ),
    KnownProblem::of(
        409,
        "cart_changed",
        "The cart was changed at the same time.",
        &["check_out_cart"],
    ),
    KnownProblem::of(422, "empty_cart", "There is nothing in this cart.", PLACING),
    KnownProblem::of(422, "product_unavailable", "Some of this cannot be ordered.", PLACING),
    KnownProblem::of(
        422,
        "mixed_currencies",
        "All products of an order must have prices in one currency.",
        PLACING,
    ),
    KnownProblem::of(422, "total_too_large", "The order's total is too large.", PLACING),
    KnownProblem::of(
        503,
        "too_many_open_orders",
        "Too many orders are being processed; nothing was ordered.",
        PLACING,
    ),
    KnownProblem::of(409, "already_cancelled", "The order is cancelled.", &["cancel_order"]),
    KnownProblem::of(409, "already_shipped", "The order has been shipped.", &["cancel_order"]),
    KnownProblem::of(
        409,
        "checkout_abandoned",
        "An operator has abandoned the checkout of this order and settles it by hand.",
        &["cancel_order"],
    ),
    KnownProblem::of(429, "too_many_streams", "Too many streams are open.", &["follow_order"]),
    KnownProblem::of(409, "no_checkout", "The order has no checkout.", UNDOING),
    KnownProblem::of(409, "order_shipped", "The order has left the house.", UNDOING),
    KnownProblem::of(409, "reservation_committed", "The reserved stock was taken.", UNDOING),
    KnownProblem::of(
        409,
        "reservation_not_committed",
        "The reserved stock was not taken.",
        UNDOING,
    ),
    KnownProblem::of(409, "unknown_reservation", "There is no such reservation.", UNDOING),
    // payments
    KnownProblem::of(
        409,
        "exceeds_captured",
        "More than was captured cannot be given back.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        409,
        "nothing_to_refund",
        "Everything was given back.",
        &["refund_payment", "undo_leftover"],
    ),
    KnownProblem::of(
        409,
        "not_captured",
        "No money was taken.",
        &["refund_payment", "undo_leftover"],
    ),
    KnownProblem::of(
        409,
        "already_captured",
        "The money was taken already: refund it instead.",
        UNDOING,
    ),
    KnownProblem::of(
        409,
        "declined",
        "The provider declined it.",
        &["refund_payment", "undo_leftover"],
    ),
    KnownProblem::of(
        422,
        "currency_mismatch",
        "The payment is in another currency.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        422,
        "invalid_amount",
        "The amount must be positive.",
        &["refund_payment"],
    ),
    KnownProblem::of(
        401,
        "invalid_signature",
        "Not signed by its provider, or too long ago.",
        &["hear_webhook"],
    ),
    KnownProblem::of(
        400,
        "malformed_webhook",
        "This is not an event of the provider.",
        &["hear_webhook"],
    ),
    // shipping
    KnownProblem::of(409, "not_ready", "The shipment is not ready.", &["dispatch_shipment"]),
    KnownProblem::of(
        409,
        "not_dispatched",
        "The shipment has not been dispatched.",
        &["deliver_shipment"],
    ),
    KnownProblem::of(409, "already_dispatched", "The shipment is on its way.", UNDOING),
    KnownProblem::of(
        409,
        "shipment_cancelled",
        "The shipment is cancelled.",
        &["dispatch_shipment"],
    ),
];
