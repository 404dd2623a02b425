//! A user: profile, roles, addresses, and how they change. Pure rules; no I/O.

use banyan_core::{Actor, Fault, Timestamp};
use serde::{Deserialize, Serialize};
use shared_kernel::{Address, Role};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{email::EmailAddress, password::Password, person_name::PersonName};

/// A user, as kept and as shown to themselves and to staff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    pub id: Uuid,
    pub email: EmailAddress,
    pub name: PersonName,
    pub roles: Vec<Role>,
    /// In the user's own order.
    pub addresses: Vec<Address>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Since when the user cannot log in, because an operator has disabled the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_at: Option<Timestamp>,
    /// Since when the email address is known to be the user's: they have used a token that was sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified_at: Option<Timestamp>,
    /// Raised by every change; clients see it as the `ETag`.
    #[serde(skip)]
    pub version: i64,
}

/// What it takes to become a customer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    pub email: EmailAddress,
    pub password: Password,
    pub name: PersonName,
}

/// A change of one's own profile; what is absent stays (RFC 7396 without nulls: nothing here can be removed).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileChange {
    #[serde(default)]
    #[schema(nullable = false)]
    pub name: Option<PersonName>,
    /// All addresses, in order; those not sent again are gone.
    #[serde(default)]
    #[schema(nullable = false, max_items = 10)]
    pub addresses: Option<Vec<Address>>,
}

impl ProfileChange {
    /// # Errors
    /// `invalid_address`.
    pub fn checked(mut self) -> Result<Self, Fault> {
        if let Some(addresses) = self.addresses.take() {
            let checked = addresses.into_iter().enumerate();
            let checked = checked.map(|(index, address)| address.checked(&format!("/addresses/{index}")));
            self.addresses = Some(checked.collect::<Result<_, _>>()?);
        }
        Ok(self)
    }
}

impl User {
    /// A new user, at version 1 and without addresses.
    pub fn register(id: Uuid, email: EmailAddress, name: PersonName, roles: Vec<Role>, now: Timestamp) -> Self {
        User {
            id,
            email,
            name,
            roles,
            addresses: Vec::new(),
            created_at: now,
            updated_at: now,
            disabled_at: None,
            email_verified_at: None,
            version: 1,
        }
    }

    /// The user after the change; `None` if it changes nothing.
    pub fn change_profile(&self, change: ProfileChange, now: Timestamp) -> Option<User> {
        let name = change.name.unwrap_or_else(|| self.name.clone());
        let addresses = change.addresses.unwrap_or_else(|| self.addresses.clone());
        let changed = name != self.name || addresses != self.addresses;
        changed.then(|| User {
            name,
            addresses,
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The user with exactly these roles; `None` if they have them already.
    ///
    /// # Errors
    /// `own_operations_role`: operators cannot remove the role `ops` from themselves, so at least one operator is left.
    pub fn with_roles(&self, roles: &[Role], by: &Actor, now: Timestamp) -> Result<Option<User>, Fault> {
        let mut roles = roles.to_vec();
        roles.sort();
        roles.dedup();
        if by.user_id() == Some(self.id) && !roles.contains(&Role::Ops) {
            return Err(Fault::conflict(
                "own_operations_role",
                "Another operator must take the role ops from you.",
            ));
        }
        let mut present = self.roles.clone();
        present.sort();
        Ok((roles != present).then(|| User {
            roles,
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        }))
    }

    /// The user disabled; `None` if they are already.
    ///
    /// # Errors
    /// `own_account`: operators cannot disable themselves, so at least one operator is left.
    pub fn disable(&self, by: &Actor, now: Timestamp) -> Result<Option<User>, Fault> {
        if by.user_id() == Some(self.id) {
            return Err(Fault::conflict(
                "own_account",
                "Another operator must disable your account.",
            ));
        }
        let changed = User {
            disabled_at: Some(now),
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        };
        Ok(self.disabled_at.is_none().then_some(changed))
    }

    /// The user enabled; `None` if they are already.
    pub fn enable(&self, now: Timestamp) -> Option<User> {
        self.disabled_at.is_some().then(|| User {
            disabled_at: None,
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The user whose address is verified; `None` if it was before.
    pub fn verify_email(&self, now: Timestamp) -> Option<User> {
        self.email_verified_at.is_none().then(|| User {
            email_verified_at: Some(now),
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The user with another address, which is verified.
    pub fn with_email(&self, email: EmailAddress, now: Timestamp) -> User {
        User {
            email,
            email_verified_at: Some(now),
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        }
    }

    /// The value of the `ETag`. It includes the id, because `/users/me` is a different resource for each user.
    pub fn etag_version(&self) -> String {
        format!("{}-{}", self.id.simple(), self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> User {
        let (email, name) = (
            EmailAddress::parse("ada@example.com").unwrap(),
            PersonName::parse("Ada").unwrap(),
        );
        User::register(
            Uuid::from_u128(1),
            email,
            name,
            vec![Role::Customer],
            Timestamp::from_ms(1),
        )
    }

    #[test]
    fn a_change_without_effect_is_no_change() {
        let user = ada();
        assert_eq!(
            user.change_profile(ProfileChange::default(), Timestamp::from_ms(2)),
            None
        );
        let same = ProfileChange {
            name: Some(user.name.clone()),
            addresses: Some(vec![]),
        };
        assert_eq!(user.change_profile(same, Timestamp::from_ms(2)), None);
    }

    #[test]
    fn absent_fields_keep_their_values() {
        let user = ada();
        let change = ProfileChange {
            name: Some(PersonName::parse("Countess").unwrap()),
            addresses: None,
        };
        let changed = user.change_profile(change, Timestamp::from_ms(2)).unwrap();
        assert_eq!(
            (changed.name.as_str(), changed.version, changed.updated_at.as_ms()),
            ("Countess", 2, 2)
        );
        assert_eq!((changed.email, changed.created_at), (user.email, user.created_at));
    }

    #[test]
    fn operators_cannot_remove_their_own_role() {
        let now = Timestamp::from_ms(2);
        let operator = User {
            roles: vec![Role::Ops],
            ..ada()
        };
        let themselves = Actor::user(operator.id, [Role::Ops]);
        assert_eq!(
            operator.with_roles(&[Role::Staff], &themselves, now).unwrap_err().code,
            "own_operations_role"
        );
        let other = Actor::user(Uuid::from_u128(2), [Role::Ops]);
        let changed = operator
            .with_roles(&[Role::Staff, Role::Customer, Role::Staff], &other, now)
            .unwrap()
            .unwrap();
        assert_eq!(changed.roles, [Role::Customer, Role::Staff]);
        assert_eq!(
            changed.with_roles(&[Role::Staff, Role::Customer], &other, now),
            Ok(None)
        );
    }

    #[test]
    fn entity_tags_of_two_users_differ_at_the_same_version() {
        assert_ne!(
            ada().etag_version(),
            User {
                id: Uuid::from_u128(2),
                ..ada()
            }
            .etag_version()
        );
    }
}
