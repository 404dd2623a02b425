//! Notifications, and what follows from each attempt to send one. Pure rules; no I/O.

use std::{fmt, time::Duration};

use banyan_core::{Fault, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a notification is about.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
#[schema(as = NotificationKind)]
pub enum Kind {
    OrderPlaced,
    OrderConfirmed,
    OrderCancelled,
    OrderShipped,
    OrderDelivered,
    PaymentRefunded,
    Welcome,
    PasswordReset,
    PasswordChanged,
    EmailVerification,
    EmailChange,
    EmailChanged,
    AlreadyRegistered,
}

/// Where a notification stands.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", const_into_str)]
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

/// The content of a mail, and the user it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub kind: Kind,
    pub user_id: Uuid,
    pub subject: String,
    pub body: String,
    /// Set for a mail about the account itself: the mail of users that it sends.
    pub account_mail: Option<Uuid>,
}

/// Where the text of a mail shows its token or link, which is added when it is sent. What is stored, and shown to the user, has this instead.
pub const SECRET: &str = "(shown in the mail alone)";

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

/// A mail that is due, to be attempted by this instance now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueMail {
    pub id: Uuid,
    pub user_id: Uuid,
    pub kind: Kind,
    pub subject: String,
    pub body: String,
    /// The mail of users that it sends, for a mail about the account itself.
    pub account_mail: Option<Uuid>,
    /// The number of attempts, this one included.
    pub attempts: u32,
    /// The number of refusals before this attempt.
    pub refusals: u32,
    /// The lease token: raised by every claim, so that an outcome counts only until another instance claims the mail.
    pub token: i64,
    pub created_at: Timestamp,
    pub traceparent: Option<String>,
}

/// The outcome of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Sent {
        to: String,
    },
    Captured {
        to: String,
    },
    /// The mail server or users refused the mail, perhaps for a reason that passes.
    Refused {
        error: Failure,
    },
    /// Neither accepted nor refused: the mail may even have arrived.
    Unknown {
        error: Failure,
    },
    /// It can never be sent.
    Undeliverable {
        error: Failure,
    },
}

/// Why an attempt failed. It is displayed as its code alone, for logs: the detail may contain email addresses and is stored with the mail only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A fault code, or the mail server's reply code.
    pub code: String,
    pub detail: String,
}

impl Failure {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Failure {
            code: code.to_owned(),
            detail: detail.into(),
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
            detail: fault.to_string(),
            code: fault.code,
        }
    }
}

/// When a mail is tried again, and when it is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The delays before the second attempt, the third, and so on; the last one repeats.
    pub delays: Vec<Duration>,
    pub max_refusals: u32,
    pub give_up_after: Duration,
}

/// What is done with a mail after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Sent {
        to: String,
    },
    Captured {
        to: String,
    },
    Retry {
        after: Duration,
        refusals: u32,
        error: Failure,
    },
    Failed {
        error: Failure,
    },
}

/// A mail after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    pub mail: DueMail,
    pub next: Next,
}

impl DueMail {
    /// The same under the token of a claim.
    pub fn claimed(self) -> Self {
        DueMail {
            token: self.token + 1,
            ..self
        }
    }

    /// An unknown outcome is not a refusal: refusals are limited in number, unknown outcomes in time.
    pub fn next(&self, attempt: Attempt, policy: &RetryPolicy, now: Timestamp) -> Next {
        let (refusals, error) = match attempt {
            Attempt::Sent { to } => return Next::Sent { to },
            Attempt::Captured { to } => return Next::Captured { to },
            Attempt::Undeliverable { error } => return Next::Failed { error },
            Attempt::Refused { error } => (self.refusals + 1, error),
            Attempt::Unknown { error } => (self.refusals, error),
        };
        if refusals >= policy.max_refusals || now.since(self.created_at) >= policy.give_up_after {
            return Next::Failed { error };
        }
        let at = usize::try_from(self.attempts.saturating_sub(1))
            .unwrap_or(usize::MAX)
            .min(policy.delays.len().saturating_sub(1));
        let after = policy.delays.get(at).copied().unwrap_or(Duration::from_secs(1));
        Next::Retry { after, refusals, error }
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    const CREATED: Timestamp = Timestamp::from_ms(1_000_000);

    fn claimed(attempts: u32, refusals: u32) -> DueMail {
        DueMail {
            id: Uuid::from_u128(1),
            user_id: Uuid::from_u128(2),
            kind: Kind::Welcome,
            subject: "Hello".into(),
            body: "Hello".into(),
            account_mail: None,
            attempts,
            refusals,
            token: 1,
            created_at: CREATED,
            traceparent: None,
        }
    }

    fn policy() -> RetryPolicy {
        RetryPolicy {
            delays: vec![Duration::from_secs(1), Duration::from_secs(5)],
            max_refusals: 3,
            give_up_after: Duration::from_secs(3_600),
        }
    }

    fn refused() -> Attempt {
        Attempt::Refused {
            error: Failure::new("code", "550 no"),
        }
    }

    fn unknown() -> Attempt {
        Attempt::Unknown {
            error: Failure::new("code", "no connection"),
        }
    }

    #[test]
    fn a_failure_is_logged_by_its_code_without_its_detail() {
        let detail = "550 5.1.1 <ada@example.com>: no such mailbox";
        let next = claimed(3, 2).next(
            Attempt::Refused {
                error: Failure::new("550", detail),
            },
            &policy(),
            CREATED,
        );
        let Next::Failed { error } = next else {
            panic!("{next:?}")
        };
        assert_eq!((error.to_string().as_str(), error.detail.as_str()), ("550", detail));
    }

    #[test]
    fn delays_grow_and_the_last_one_repeats() {
        for (attempts, seconds) in [(1, 1), (2, 5), (3, 5), (1_000, 5)] {
            let next = claimed(attempts, 0).next(unknown(), &policy(), CREATED);
            assert!(
                matches!(next, Next::Retry { after, refusals: 0, .. } if after == Duration::from_secs(seconds)),
                "{next:?}"
            );
        }
    }

    #[test]
    fn a_mail_is_given_up_at_the_last_refusal() {
        let next = claimed(2, 1).next(refused(), &policy(), CREATED);
        assert!(matches!(next, Next::Retry { refusals: 2, .. }), "{next:?}");
        assert_eq!(
            claimed(3, 2).next(refused(), &policy(), CREATED),
            Next::Failed {
                error: Failure::new("code", "550 no")
            }
        );
    }

    #[test]
    fn an_unknown_outcome_is_retried_until_the_time_is_over() {
        let before = CREATED.plus(Duration::from_secs(3_599));
        assert!(matches!(
            claimed(1_000, 2).next(unknown(), &policy(), before),
            Next::Retry { refusals: 2, .. }
        ));
        let after = CREATED.plus(Duration::from_secs(3_600));
        assert_eq!(
            claimed(1, 0).next(unknown(), &policy(), after),
            Next::Failed {
                error: Failure::new("code", "no connection")
            }
        );
    }

    #[test]
    fn an_undeliverable_mail_is_not_retried() {
        let undeliverable = Attempt::Undeliverable {
            error: Failure::new("code", "no such user"),
        };
        assert_eq!(
            claimed(1, 0).next(undeliverable, &policy(), CREATED),
            Next::Failed {
                error: Failure::new("code", "no such user")
            }
        );
    }

    #[test]
    fn kinds_and_statuses_have_the_same_names_in_json_and_in_the_database() {
        for kind in Kind::VARIANTS {
            assert_eq!(kind.into_str().parse().as_ref(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.into_str());
        }
        for status in Status::VARIANTS {
            assert_eq!(status.into_str().parse().as_ref(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.into_str());
        }
    }
}
