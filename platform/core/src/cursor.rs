//! Cursors: the position in a list after which the next page starts.

use std::{fmt::Display, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use uuid::Uuid;

use crate::{Fault, Timestamp};

/// The sort key of the last item of a page, as text. The store that issued it reads it back; clients get it as an opaque [token](Cursor::to_token).
///
/// A list sorted by id makes it from the id, a list sorted by time and a second key from both: `Cursor::from((created_at, id))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

impl Cursor {
    /// What a client gets as `next_cursor`: URL-safe base64 without padding.
    pub fn to_token(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.0)
    }

    /// Reads what a client sent as `cursor`.
    ///
    /// # Errors
    /// As [`invalid`](Cursor::invalid).
    pub fn from_token(token: &str) -> Result<Self, Fault> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Cursor::invalid())?;
        // PostgreSQL stores no NUL in text.
        let key = String::from_utf8(bytes).ok().filter(|key| !key.contains('\0'));
        key.map(Cursor).ok_or_else(Cursor::invalid)
    }

    /// The key of a list that is sorted by id.
    ///
    /// # Errors
    /// As [`invalid`](Cursor::invalid).
    pub fn id(&self) -> Result<Uuid, Fault> {
        self.0.parse().map_err(|_| Cursor::invalid())
    }

    /// The key of a list that is sorted by time and, within the same millisecond, by a second key.
    ///
    /// # Errors
    /// As [`invalid`](Cursor::invalid).
    pub fn time_and<K: FromStr>(&self) -> Result<(Timestamp, K), Fault> {
        // A dot was the separator of some lists before; their cursors stay valid.
        let (ms, key) = self.0.split_once([' ', '.']).ok_or_else(Cursor::invalid)?;
        let ms = ms.parse().map_err(|_| Cursor::invalid())?;
        let key = key.parse().map_err(|_| Cursor::invalid())?;
        Ok((Timestamp::from_ms(ms), key))
    }

    /// The fault for a cursor that the list cannot read, because it never issued it: `invalid_parameter` (malformed).
    pub fn invalid() -> Fault {
        Fault::malformed("invalid_parameter", "The cursor is not one this list gave.")
            .at("cursor", "is not a cursor of this list")
    }
}

impl From<Uuid> for Cursor {
    fn from(id: Uuid) -> Self {
        Cursor(id.to_string())
    }
}

impl<K: Display> From<(Timestamp, K)> for Cursor {
    fn from((time, key): (Timestamp, K)) -> Self {
        Cursor(format!("{} {key}", time.as_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_crosses_the_wire_as_an_opaque_token() {
        let cursor = Cursor::from((Timestamp::from_ms(5), "a.b c"));
        let token = cursor.to_token();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{token}");
        assert_eq!(Cursor::from_token(&token), Ok(cursor));
        for wrong in ["not base64!", "AA", "_w"] {
            assert_eq!(Cursor::from_token(wrong).unwrap_err(), Cursor::invalid(), "{wrong}");
        }
    }

    #[test]
    fn a_store_reads_back_the_key_it_issued() {
        let id = Uuid::from_u128(7);
        assert_eq!(Cursor::from(id).id(), Ok(id));
        let time = Timestamp::from_ms(1_732_188_000_042);
        assert_eq!(Cursor::from((time, id)).time_and(), Ok((time, id)));
        let before = Cursor(format!("{}.{}", time.as_ms(), id.simple()));
        assert_eq!(before.time_and(), Ok((time, id)));
        let spaced = Cursor::from((time, "a.b c".to_owned()));
        assert_eq!(spaced.time_and(), Ok((time, "a.b c".to_owned())));
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        for other in ["", "5", "x 5", "5 x"] {
            let cursor = Cursor(other.to_owned());
            assert_eq!(cursor.id(), Err(Cursor::invalid()), "{other}");
            assert_eq!(cursor.time_and::<Uuid>(), Err(Cursor::invalid()), "{other}");
        }
    }
}
