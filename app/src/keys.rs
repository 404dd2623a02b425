//! What users knows of access tokens: the public keys, and the sessions that have ended.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use banyan_core::{Call, Fault, Timestamp, parse_id};
use banyan_http::{ENDED_SESSIONS_INTERVAL, EndedSession, EndedSessions, KeySource, VerifyingKey};
use users_contract::{ListEndedSessions, ListSigningKeys, Users};

pub struct UsersKeys(pub Arc<dyn Users>);

#[async_trait]
impl KeySource for UsersKeys {
    async fn keys(&self) -> Result<Vec<VerifyingKey>, Fault> {
        // Every process may have them, so nobody is named as the actor.
        let keys = self.0.list_signing_keys(&Call::default(), ListSigningKeys {}).await?;
        Ok(keys
            .items
            .into_iter()
            .map(|key| VerifyingKey { kid: key.kid, x: key.x })
            .collect())
    }

    async fn ended_sessions(&self, since: Option<Timestamp>) -> Result<Option<EndedSessions>, Fault> {
        let call = Call::default().within(ENDED_SESSIONS_INTERVAL);
        let request = ListEndedSessions {
            since_ms: since.map(Timestamp::as_ms),
        };
        let list = self.0.list_ended_sessions(&call, request).await?;
        let items = list.items.into_iter().map(|session| {
            Ok(EndedSession {
                id: parse_id("id", &session.id)?,
                ended_at: Timestamp::from_ms(session.ended_at_ms),
            })
        });
        Ok(Some(EndedSessions {
            items: items.collect::<Result<_, Fault>>()?,
            as_of: Timestamp::from_ms(list.as_of_ms),
            refused_until: list.refused_until_ms.map(Timestamp::from_ms),
            token_lifetime: Duration::from_secs(list.access_token_seconds),
        }))
    }
}
