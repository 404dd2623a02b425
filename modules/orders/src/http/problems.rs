//! The problems that clients may meet beside the shared ones, for the OpenAPI document.

use banyan_http::KnownProblem;

const PLACING: &[&str] = &["place_order", "check_out_cart"];
const CHANGING_A_CART: &[&str] = &["put_item", "remove_item"];
/// Other modules refuse to undo what an abandoned checkout left there.
const UNDOING: &[&str] = &["undo_leftover"];

pub(super) const PROBLEMS: &[KnownProblem] = &[
    KnownProblem::of(
        422,
        "invalid_address",
        "A part that the country requires is missing, or its postal code has another form.",
        PLACING,
    ),
    KnownProblem::of(
        422,
        "invalid_quantity",
        "At most 999 of one product.",
        &["place_order", "check_out_cart", "put_item"],
    ),
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
    KnownProblem::of(
        409,
        "total_changed",
        "The total is 21.00 EUR now; nothing was ordered.",
        PLACING,
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
    KnownProblem::of(
        401,
        "invalid_ticket",
        "This ticket is not one of this order, has been used, or has expired.",
        &["follow_order"],
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
    KnownProblem::of(409, "nothing_to_refund", "Everything was given back.", UNDOING),
    KnownProblem::of(409, "not_captured", "No money was taken.", UNDOING),
    KnownProblem::of(
        409,
        "already_captured",
        "The money was taken already: refund it instead.",
        UNDOING,
    ),
    KnownProblem::of(409, "declined", "The provider declined it.", UNDOING),
    KnownProblem::of(409, "already_dispatched", "The shipment is on its way.", UNDOING),
];
