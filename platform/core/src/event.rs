//! Events, and the envelope in which they are published.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{Fault, Timestamp};

/// A message that says what happened. Implemented by the generated contracts for every message of an `events.proto`.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The protobuf full name, for example `banyan.library.v1.BookLent`.
    const TYPE: &'static str;
    /// The types of all events of its module, as they were when this program was compiled. A subscriber that receives another type is older than the
    /// event, and waits for its own upgrade.
    const ALL_TYPES: &'static [&'static str] = &[Self::TYPE];
}

/// A CloudEvents 1.0 event in structured JSON mode. The outbox, the broker and webhooks contain the same bytes.
///
/// `version`, `previousid` and `traceparent` are extension attributes: `version` is gapless per subject, `previousid` is the id of the event before it,
/// `traceparent` is the W3C trace context of the request that caused the event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub specversion: String,
    pub id: Uuid,
    /// The module it happened in.
    pub source: String,
    /// The event's protobuf full name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it happened to: `<aggregate>/<id>`.
    pub subject: String,
    pub time: Timestamp,
    pub datacontenttype: String,
    pub version: i64,
    /// The id of the previous event of the subject, so that a subscriber sees whether it has handled that one or another one of the same version: a
    /// database that was restored gives versions out again. None for the first event, and from older producers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previousid: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    pub data: Box<RawValue>,
}

impl Envelope {
    /// `<source>.<aggregate>`: what a module subscribes to.
    pub fn topic(&self) -> String {
        let aggregate = self.subject.split('/').next().unwrap_or_default();
        format!("{}.{aggregate}", self.source)
    }

    /// The id in the subject.
    pub fn subject_id(&self) -> &str {
        self.subject.split_once('/').map_or("", |(_, id)| id)
    }

    /// The event inside, if it is of this type.
    ///
    /// # Errors
    /// `undecodable_event`: the type is right but the data does not fit it, which is a bug of the producer.
    pub fn find<E: Event>(&self) -> Result<Option<E>, Fault> {
        if self.kind != E::TYPE {
            return Ok(None);
        }
        serde_json::from_str(self.data.get())
            .map(Some)
            .map_err(|error| Fault::internal("undecodable_event", format!("{} {}: {error}", self.kind, self.id)))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// # Errors
    /// `undecodable_event` for a frame that is not a CloudEvent in this format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes).map_err(|error| Fault::internal("undecodable_event", error.to_string()))
    }
}
