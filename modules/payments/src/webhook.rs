//! Signed webhooks: an HMAC-SHA256 over `timestamp.body`, as Stripe signs its own (<https://docs.stripe.com/webhooks#verify-manually>).
//!
//! The header reads `t=<seconds>,v1=<hex>`; several `v1` may appear while a secret is rotated. Unknown schemes are ignored.

use std::time::Duration;

use banyan_core::{Fault, Timestamp};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::provider::WebhookEvent;

/// The header that carries the signature.
pub const SIGNATURE: &str = "Webhook-Signature";

/// The maximum difference between the time of signing and now, in either direction: what Stripe allows, and documented with the route.
const TOLERANCE: Duration = Duration::from_secs(300);

/// The header's value for `body`.
pub fn sign(secret: &[u8], body: &[u8], now: Timestamp) -> String {
    let seconds = now.as_ms() / 1_000;
    format!(
        "t={seconds},v1={}",
        hex::encode(mac(secret, seconds, body).finalize().into_bytes())
    )
}

/// Reads a webhook's body if `signature` is valid and recent.
///
/// # Errors
/// `invalid_signature` (unauthenticated), also for one that is too old; `malformed_webhook` for a well-signed body that is not an event.
pub fn read(secret: &[u8], signature: &str, body: &[u8], now: Timestamp) -> Result<WebhookEvent, Fault> {
    verify(secret, signature, body, now).ok_or_else(|| {
        Fault::unauthenticated(
            "invalid_signature",
            "The webhook is not signed by its provider, or was signed too long ago.",
        )
    })?;
    serde_json::from_slice(body).map_err(|error| {
        Fault::malformed(
            "malformed_webhook",
            format!("The webhook's body is not an event: {error}."),
        )
    })
}

fn verify(secret: &[u8], signature: &str, body: &[u8], now: Timestamp) -> Option<()> {
    let parts: Vec<(&str, &str)> = signature
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .collect();
    let seconds: i64 = parts.iter().find(|(name, _)| *name == "t")?.1.parse().ok()?;
    let signed_at = Timestamp::from_ms(seconds.checked_mul(1_000)?);
    if now.since(signed_at) > TOLERANCE || signed_at.since(now) > TOLERANCE {
        return None;
    }
    let signatures = parts
        .iter()
        .filter(|(name, _)| *name == "v1")
        .filter_map(|(_, value)| hex::decode(value).ok());
    // `verify_slice` compares in constant time.
    signatures
        .take(8)
        .any(|given| mac(secret, seconds, body).verify_slice(&given).is_ok())
        .then_some(())
}

fn mac(secret: &[u8], seconds: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::provider::Response;

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    fn body() -> Vec<u8> {
        let answer = Response::Accepted { id: "auth_1".into() };
        serde_json::to_vec(&WebhookEvent {
            id: Uuid::from_u128(1),
            reference: Uuid::from_u128(2),
            answer,
        })
        .unwrap()
    }

    fn code(signature: &str, body: &[u8], now: Timestamp) -> String {
        read(b"secret", signature, body, now).map_or_else(|fault| fault.code, |event| event.reference.to_string())
    }

    #[test]
    fn a_webhook_signed_by_its_provider_is_read() {
        let signature = sign(b"secret", &body(), NOW);
        assert_eq!(code(&signature, &body(), NOW), Uuid::from_u128(2).to_string());
        let during_rotation = format!("v0=abc, {signature},v1=00");
        assert_eq!(code(&during_rotation, &body(), NOW), Uuid::from_u128(2).to_string());
    }

    #[test]
    fn the_signature_equals_that_of_openssl() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let expected = "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(sign(b"secret", b"{}", NOW), expected);
    }

    #[test]
    fn a_webhook_that_its_provider_did_not_sign_is_refused() {
        let signature = sign(b"secret", &body(), NOW);
        let altered = String::from_utf8(body()).unwrap().replace("auth_1", "auth_2");
        for (signature, body) in [
            (sign(b"other", &body(), NOW), body()),
            (signature.clone(), altered.into_bytes()),
            (signature.replace("t=17", "t=16"), body()),
            (String::new(), body()),
            ("t=x,v1=".into(), body()),
            (signature.split(',').next().unwrap().to_owned(), body()),
            (format!("t={},v1=00", i64::MAX), body()),
        ] {
            assert_eq!(code(&signature, &body, NOW), "invalid_signature", "{signature}");
        }
    }

    #[test]
    fn a_webhook_signed_too_long_ago_or_ahead_is_refused() {
        let signature = sign(b"secret", &body(), NOW);
        for (now, expected) in [
            (NOW.plus(TOLERANCE), Uuid::from_u128(2).to_string()),
            (NOW.plus(TOLERANCE + Duration::from_secs(1)), "invalid_signature".into()),
            (NOW.minus(TOLERANCE), Uuid::from_u128(2).to_string()),
            (
                NOW.minus(TOLERANCE + Duration::from_secs(1)),
                "invalid_signature".into(),
            ),
        ] {
            assert_eq!(code(&signature, &body(), now), expected);
        }
    }

    #[test]
    fn a_well_signed_body_must_still_be_an_event() {
        assert_eq!(code(&sign(b"secret", b"{}", NOW), b"{}", NOW), "malformed_webhook");
    }
}
