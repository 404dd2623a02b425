//! The rules of a notification: what it is, and what follows from each attempt to send it.

use std::{fmt, time::Duration};

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NotificationKind)]
pub enum Kind {
    OrderPlaced,
    OrderConfirmed,
    OrderCancelled,
    OrderShipped,
    OrderDelivered,
    PaymentRefunded,
    Welcome,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::OrderPlaced,
        Kind::OrderConfirmed,
        Kind::OrderCancelled,
        Kind::OrderShipped,
        Kind::OrderDelivered,
        Kind::PaymentRefunded,
        Kind::Welcome,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OrderPlaced => "order_placed",
            Kind::OrderConfirmed => "order_confirmed",
            Kind::OrderCancelled => "order_cancelled",
            Kind::OrderShipped => "order_shipped",
            Kind::OrderDelivered => "order_delivered",
            Kind::PaymentRefunded => "payment_refunded",
            Kind::Welcome => "welcome",
        }
    }

    pub fn find(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Where a notification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = NotificationStatus)]
pub enum Status {
    /// It will be sent.
    Queued,
    /// The mail server took it.
    Sent,
    /// Complete, and kept instead of sent: there is no mail server.
    Captured,
    /// Given up.
    Failed,
}

impl Status {
    const ALL: [Status; 4] = [Status::Queued, Status::Sent, Status::Captured, Status::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Sent => "sent",
            Status::Captured => "captured",
            Status::Failed => "failed",
        }
    }

    pub fn find(name: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// What is to be told, to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub kind: Kind,
    pub user_id: Uuid,
    pub subject: String,
    pub body: String,
}

/// A notification as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Notification {
    pub id: Uuid,
    pub kind: Kind,
    pub subject: String,
    /// Plain text.
    pub body: String,
    /// The address it went to; absent until one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to: Option<String>,
    pub status: Status,
    pub created_at: Timestamp,
    /// When the mail server took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sent_at: Option<Timestamp>,
}

/// A mail that this instance has claimed and is to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub id: Uuid,
    pub user_id: Uuid,
    pub kind: Kind,
    pub subject: String,
    pub body: String,
    /// This one included.
    pub attempts: u32,
    /// Before this attempt.
    pub refusals: u32,
    pub token: i64,
    pub created_at: Timestamp,
    pub traceparent: Option<String>,
}

/// What one attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Sent {
        to: String,
    },
    Captured {
        to: String,
    },
    /// Somebody said no; it may have been a passing mistake of theirs.
    Refused {
        error: Failure,
    },
    /// Nobody took it, and nobody refused it: it may even have arrived.
    Unanswered {
        error: Failure,
    },
    /// It can never be sent.
    Hopeless {
        error: Failure,
    },
}

/// Why an attempt came to nothing. It shows as its code alone, which is for logs: what was said may hold mail addresses, and stays with the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A word, or the mail server's reply code.
    pub code: String,
    pub said: String,
}

impl Failure {
    pub fn new(code: &str, said: impl Into<String>) -> Self {
        Failure {
            code: code.to_owned(),
            said: said.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure {
            said: fault.to_string(),
            code: fault.code,
        }
    }
}

/// How long a mail is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Before the second attempt, the third, and so on; the last one repeats.
    pub waits: Vec<Duration>,
    pub max_refusals: u32,
    pub give_up_after: Duration,
}

/// What becomes of the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Sent {
        to: String,
    },
    Captured {
        to: String,
    },
    Again {
        after: Duration,
        refusals: u32,
        error: Failure,
    },
    Failed {
        error: Failure,
    },
}

impl Claimed {
    /// Unknown is not refused: without an answer a mail is tried until its time is over, against refusals only so often.
    pub fn next(&self, attempt: Attempt, patience: &Patience, now: Timestamp) -> Next {
        let (refusals, error) = match attempt {
            Attempt::Sent { to } => return Next::Sent { to },
            Attempt::Captured { to } => return Next::Captured { to },
            Attempt::Hopeless { error } => return Next::Failed { error },
            Attempt::Refused { error } => (self.refusals + 1, error),
            Attempt::Unanswered { error } => (self.refusals, error),
        };
        if refusals >= patience.max_refusals || now.since(self.created_at) >= patience.give_up_after {
            return Next::Failed { error };
        }
        let at = usize::try_from(self.attempts.saturating_sub(1))
            .unwrap_or(usize::MAX)
            .min(patience.waits.len().saturating_sub(1));
        let after = patience.waits.get(at).copied().unwrap_or(Duration::from_secs(1));
        Next::Again { after, refusals, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_the_code_of_a_failure_and_not_what_was_said() {
        let said = "550 5.1.1 <ada@example.com>: no such mailbox";
        let next = claimed(3, 2).next(
            Attempt::Refused {
                error: Failure::new("550", said),
            },
            &patience(),
            CREATED,
        );
        let Next::Failed { error } = next else {
            panic!("{next:?}")
        };
        assert_eq!((error.to_string().as_str(), error.said.as_str()), ("550", said));
    }

    const CREATED: Timestamp = Timestamp::from_ms(1_000_000);

    fn claimed(attempts: u32, refusals: u32) -> Claimed {
        Claimed {
            id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(2),
            kind: Kind::Welcome,
            subject: "Hello".into(),
            body: "Hello".into(),
            attempts,
            refusals,
            token: 1,
            created_at: CREATED,
            traceparent: None,
        }
    }

    fn patience() -> Patience {
        Patience {
            waits: vec![Duration::from_secs(1), Duration::from_secs(5)],
            max_refusals: 3,
            give_up_after: Duration::from_secs(3_600),
        }
    }

    fn refused() -> Attempt {
        Attempt::Refused {
            error: Failure::new("told", "550 no"),
        }
    }

    fn unanswered() -> Attempt {
        Attempt::Unanswered {
            error: Failure::new("told", "nobody there"),
        }
    }

    #[test]
    fn waits_grow_and_the_last_one_repeats() {
        for (attempts, seconds) in [(1, 1), (2, 5), (3, 5), (1_000, 5)] {
            let next = claimed(attempts, 0).next(unanswered(), &patience(), CREATED);
            assert!(
                matches!(next, Next::Again { after, refusals: 0, .. } if after == Duration::from_secs(seconds)),
                "{next:?}"
            );
        }
    }

    #[test]
    fn the_last_refusal_is_the_end() {
        let next = claimed(2, 1).next(refused(), &patience(), CREATED);
        assert!(matches!(next, Next::Again { refusals: 2, .. }), "{next:?}");
        assert_eq!(
            claimed(3, 2).next(refused(), &patience(), CREATED),
            Next::Failed {
                error: Failure::new("told", "550 no")
            }
        );
    }

    #[test]
    fn no_answer_is_no_refusal_and_ends_only_with_time() {
        let before = CREATED.plus(Duration::from_secs(3_599));
        assert!(matches!(
            claimed(1_000, 2).next(unanswered(), &patience(), before),
            Next::Again { refusals: 2, .. }
        ));
        let after = CREATED.plus(Duration::from_secs(3_600));
        assert_eq!(
            claimed(1, 0).next(unanswered(), &patience(), after),
            Next::Failed {
                error: Failure::new("told", "nobody there")
            }
        );
    }

    #[test]
    fn what_can_never_be_sent_is_not_tried_again() {
        let hopeless = Attempt::Hopeless {
            error: Failure::new("told", "no such user"),
        };
        assert_eq!(
            claimed(1, 0).next(hopeless, &patience(), CREATED),
            Next::Failed {
                error: Failure::new("told", "no such user")
            }
        );
    }

    #[test]
    fn every_word_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::find(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for status in Status::ALL {
            assert_eq!(Status::find(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
