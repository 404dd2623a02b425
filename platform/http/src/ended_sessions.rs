//! The sessions that have ended: their access tokens are refused although they have not expired.
//!
//! Every process keeps this list for itself, and fetches what is new every [`FETCH_INTERVAL`]. While the module that issues the tokens is
//! unavailable the last list stays in use, so nothing depends on that module being there. The list is bounded: where it cannot name every
//! session, all tokens that are old enough to be of one it does not name are refused, and their clients refresh.

use std::{collections::HashMap, time::Duration};

use banyan_core::Timestamp;
use uuid::Uuid;

use crate::Claims;

/// The interval between two fetches. With the timeout of a fetch it keeps the promise that an ended session is refused within 5 s.
pub const FETCH_INTERVAL: Duration = Duration::from_secs(2);
/// How far each list reaches back behind the one before: a transaction commits later than the time it stores, and clocks differ.
const OVERLAP: Duration = Duration::from_secs(60);
/// How much longer than an access token a session is kept: a refresh and the end of its session may happen at the same moment.
const SLACK: Duration = Duration::from_secs(60);
/// The maximum number of sessions kept.
const MAX_KEPT: usize = 20_000;

/// A session that has ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSession {
    pub id: Uuid,
    pub ended_at: Timestamp,
}

/// The sessions that ended lately, as the module that issues the tokens lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSessions {
    pub items: Vec<EndedSession>,
    /// When they were listed, by the clock of that module.
    pub as_of: Timestamp,
    /// Access tokens issued until then are refused, because not every session that ended before is listed.
    pub refused_until: Option<Timestamp>,
    /// The lifetime of an access token. Older ones are refused.
    pub token_lifetime: Duration,
}

/// What a process knows of them.
#[derive(Default)]
pub(crate) struct Ended {
    by_id: HashMap<Uuid, Timestamp>,
    refused_until: Option<Timestamp>,
    as_of: Option<Timestamp>,
    token_lifetime: Option<Duration>,
}

impl Ended {
    /// The time from which on the next list must have every session.
    pub fn since(&self) -> Option<Timestamp> {
        self.as_of.map(|at| at.minus(OVERLAP))
    }

    /// Whether the session of this token has ended, or may have.
    pub fn refuses(&self, claims: &Claims, now: Timestamp) -> bool {
        let issued_at = Timestamp::from_ms(claims.iat.saturating_mul(1_000));
        let is_old = |life: Duration| issued_at.plus(life).plus(SLACK) < now;
        self.by_id.contains_key(&claims.sid)
            || self.refused_until.is_some_and(|until| issued_at <= until)
            || self.token_lifetime.is_some_and(is_old)
    }

    pub fn add(&mut self, list: EndedSessions) {
        self.add_at_most(list, MAX_KEPT);
    }

    fn add_at_most(&mut self, list: EndedSessions, max: usize) {
        let kept_from = list.as_of.minus(list.token_lifetime).minus(SLACK);
        self.by_id
            .extend(list.items.into_iter().map(|session| (session.id, session.ended_at)));
        self.by_id.retain(|_, ended_at| *ended_at > kept_from);
        self.refused_until = self.refused_until.max(list.refused_until);
        self.as_of = Some(list.as_of);
        self.token_lifetime = Some(list.token_lifetime);
        if self.by_id.len() > max {
            let mut ends: Vec<Timestamp> = self.by_id.values().copied().collect();
            ends.sort_unstable();
            let dropped_until = ends[ends.len() - max - 1];
            self.by_id.retain(|_, ended_at| *ended_at > dropped_until);
            self.refused_until = self.refused_until.max(Some(dropped_until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(900);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_ms(seconds * 1_000)
    }

    fn token(session: u128, issued_at_s: i64) -> Claims {
        Claims {
            sub: Uuid::from_u128(7),
            roles: Vec::new(),
            iss: String::new(),
            aud: String::new(),
            iat: issued_at_s,
            nbf: issued_at_s,
            exp: issued_at_s + 900,
            jti: Uuid::from_u128(8),
            sid: Uuid::from_u128(session),
        }
    }

    fn list(ended: &[(u128, i64)], as_of: i64) -> EndedSessions {
        let items = ended.iter().map(|(id, ended_at)| EndedSession {
            id: Uuid::from_u128(*id),
            ended_at: at(*ended_at),
        });
        EndedSessions {
            items: items.collect(),
            as_of: at(as_of),
            refused_until: None,
            token_lifetime: LIFETIME,
        }
    }

    #[test]
    fn the_tokens_of_an_ended_session_are_refused_until_they_have_expired() {
        let mut ended = Ended::default();
        ended.add(list(&[(1, 1_000)], 1_001));
        assert!(ended.refuses(&token(1, 990), at(1_001)));
        assert!(!ended.refuses(&token(2, 990), at(1_001)));
        // The next lists need not name it again.
        ended.add(list(&[], 1_900));
        assert!(ended.refuses(&token(1, 1_000), at(1_899)));
        ended.add(list(&[], 1_961));
        assert!(ended.by_id.is_empty(), "nothing is kept for ever");
        assert_eq!(ended.since(), Some(at(1_901)));
    }

    #[test]
    fn a_full_list_refuses_every_token_that_may_be_of_a_session_it_does_not_name() {
        let mut ended = Ended::default();
        ended.add_at_most(list(&[(1, 1_000), (2, 1_010), (3, 1_020)], 1_021), 2);
        assert_eq!(ended.by_id.len(), 2);
        assert!(ended.refuses(&token(1, 999), at(1_021)));
        assert!(ended.refuses(&token(9, 1_000), at(1_021)), "its client refreshes");
        assert!(!ended.refuses(&token(9, 1_001), at(1_021)));
        let full = EndedSessions {
            refused_until: Some(at(1_050)),
            ..list(&[], 1_060)
        };
        ended.add(full);
        assert!(ended.refuses(&token(9, 1_050), at(1_060)) && !ended.refuses(&token(9, 1_051), at(1_060)));
    }

    #[test]
    fn a_token_that_is_older_than_any_can_be_is_refused() {
        let mut ended = Ended::default();
        let of_a_longer_setting = Claims {
            exp: 100_000,
            ..token(1, 1_000)
        };
        assert!(!ended.refuses(&of_a_longer_setting, at(2_000)));
        ended.add(list(&[], 2_000));
        assert!(ended.refuses(&of_a_longer_setting, at(2_000)));
    }
}
