//! The Ed25519 keys of access tokens: one that signs, and any number whose signatures are still accepted.
//!
//! A key's id is its RFC 7638 thumbprint, so a key has the same id on every instance.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use banyan_core::{Fault, Secrets};
use banyan_durable::Db;
use banyan_http::{ACCESS_TOKEN_TYPE, Claims};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{settings::Settings, store};

/// A public key as a JSON Web Key (RFC 7517, RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Jwk {
    #[schema(example = "OKP")]
    pub kty: &'static str,
    #[schema(example = "Ed25519")]
    pub crv: &'static str,
    /// The key's 32 bytes, base64url.
    pub x: String,
    pub kid: String,
    #[serde(rename = "use")]
    #[schema(example = "sig")]
    pub usage: &'static str,
    #[schema(example = "EdDSA")]
    pub alg: &'static str,
}

impl Jwk {
    fn of(public: &[u8]) -> Self {
        let x = BASE64_URL_SAFE_NO_PAD.encode(public);
        // RFC 7638: the required members alone, in this order, without a space.
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
        Jwk {
            kty: "OKP",
            crv: "Ed25519",
            x,
            kid: BASE64_URL_SAFE_NO_PAD.encode(thumbprint),
            usage: "sig",
            alg: "EdDSA",
        }
    }
}

/// A key that signs.
pub struct SigningKey {
    pub public: Jwk,
    private: EncodingKey,
}

/// All keys of the module.
pub struct Keys {
    signing: SigningKey,
    published: Vec<Jwk>,
}

impl SigningKey {
    /// # Errors
    /// If `seed` is not an Ed25519 private key.
    pub fn from_seed(seed: &[u8]) -> anyhow::Result<Self> {
        if seed.len() != 32 {
            bail!("an Ed25519 key has 32 bytes, not {}", seed.len());
        }
        SigningKey::of(
            &Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| anyhow!("not an Ed25519 key: {error}"))?,
        )
    }

    /// # Errors
    /// If `pem` does not contain an Ed25519 key in PKCS#8.
    pub fn from_pem(pem: &str) -> anyhow::Result<Self> {
        let der = pem_body(pem, "PRIVATE KEY").context("expected a PEM with a PRIVATE KEY (PKCS#8)")?;
        SigningKey::of(
            &Ed25519KeyPair::from_pkcs8(&der).map_err(|error| anyhow!("not an Ed25519 key in PKCS#8: {error}"))?,
        )
    }

    fn of(pair: &Ed25519KeyPair) -> anyhow::Result<Self> {
        let pkcs8 = pair
            .to_pkcs8v1()
            .map_err(|_| anyhow!("the key cannot be written as PKCS#8"))?;
        Ok(SigningKey {
            public: Jwk::of(pair.public_key().as_ref()),
            private: EncodingKey::from_ed_der(pkcs8.as_ref()),
        })
    }
}

impl Keys {
    /// `others` are the further keys whose signatures are accepted.
    pub fn new(signing: SigningKey, others: Vec<Jwk>) -> Self {
        let mut published = vec![signing.public.clone()];
        for other in others {
            if !published.contains(&other) {
                published.push(other);
            }
        }
        Keys { signing, published }
    }

    /// The public keys, the one that signs first.
    pub fn published(&self) -> &[Jwk] {
        &self.published
    }

    /// A signed access token.
    ///
    /// # Errors
    /// `internal`.
    pub fn sign(&self, claims: &Claims) -> Result<String, Fault> {
        let header = Header {
            typ: Some(ACCESS_TOKEN_TYPE.to_owned()),
            kid: Some(self.signing.public.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, claims, &self.signing.private)
            .map_err(|error| Fault::internal("unsigned_token", error.to_string()))
    }
}

/// Loads the keys named in the settings. Without a signing key there, the key in the module's database signs.
///
/// # Errors
/// If a key file cannot be read or is not an Ed25519 key, or the database is unavailable.
pub async fn load(db: &Db, settings: &Settings, secrets: &dyn Secrets) -> anyhow::Result<Keys> {
    let mut accepted = Vec::new();
    for path in &settings.verifying_key_files {
        let pem = read_pem(path).await?;
        accepted.push(public_key_of_pem(&pem).with_context(|| path.display().to_string())?);
    }
    if let Some(path) = &settings.signing_key_file {
        let pem = read_pem(path).await?;
        let signing = SigningKey::from_pem(&pem).with_context(|| path.display().to_string())?;
        return Ok(Keys::new(signing, accepted));
    }
    let (signing, retired) = load_stored(db, secrets).await?;
    accepted.extend(retired.into_iter().map(|key| key.public));
    Ok(Keys::new(signing, accepted))
}

/// The signing key and the retired keys stored in the module's database. The first instance that finds none generates one.
async fn load_stored(db: &Db, secrets: &dyn Secrets) -> anyhow::Result<(SigningKey, Vec<SigningKey>)> {
    let stored = store::list_signing_seeds(db.read()).await?;
    let stored = if stored.is_empty() {
        generate(db, secrets).await?
    } else {
        stored
    };
    let mut keys = Vec::with_capacity(stored.len());
    for seed in stored {
        keys.push(SigningKey::from_seed(&seed_from_text(&seed)?)?);
    }
    let signing = if keys.is_empty() { None } else { Some(keys.remove(0)) };
    Ok((signing.context("no signing key was stored")?, keys))
}

/// Stores a new signing key, unless another instance was faster.
async fn generate(db: &Db, secrets: &dyn Secrets) -> anyhow::Result<Vec<String>> {
    let seed = secrets.new_secret()?;
    let (kid, seed) = (SigningKey::from_seed(&seed)?.public.kid, seed_to_text(&seed));
    let stored = db.write((kid, seed), |tx, (kid, seed)| async move {
        if store::list_signing_seeds(tx.conn()).await?.is_empty() {
            store::insert_signing_key(tx.conn(), &kid, &seed, tx.clock().now()).await?;
        }
        store::list_signing_seeds(tx.conn()).await
    });
    Ok(stored.await?)
}

/// The public key of a PEM file that contains a public or a private key.
///
/// # Errors
/// If it contains neither.
pub fn public_key_of_pem(pem: &str) -> anyhow::Result<Jwk> {
    /// SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410, section 10.1).
    const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    match pem_body(pem, "PUBLIC KEY") {
        Some(der) if der.len() == 44 && der.starts_with(&SPKI) => Ok(Jwk::of(&der[SPKI.len()..])),
        Some(_) => bail!("not an Ed25519 public key"),
        None => Ok(SigningKey::from_pem(pem)?.public),
    }
}

/// # Errors
/// If the file cannot be read; the error names it.
async fn read_pem(path: &Path) -> anyhow::Result<String> {
    tokio::fs::read_to_string(path)
        .await
        .with_context(|| format!("reading the key file {}", path.display()))
}

/// RFC 7468.
fn pem_body(pem: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    BASE64_STANDARD.decode(body).ok()
}

/// The text form in which a seed is stored.
fn seed_to_text(seed: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(seed)
}

/// # Errors
/// If `text` was not written by [`seed_to_text`].
fn seed_from_text(text: &str) -> anyhow::Result<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .context("the stored signing key cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8410, section 10.3, and the public key of section 10.1.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_id_is_the_thumbprint_of_rfc_8037() {
        // RFC 8037, appendix A.3.
        let public = BASE64_URL_SAFE_NO_PAD
            .decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
            .unwrap();
        assert_eq!(Jwk::of(&public).kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn the_private_and_the_public_file_of_a_key_contain_the_same_key() {
        let private = SigningKey::from_pem(PRIVATE).unwrap();
        assert_eq!(public_key_of_pem(PUBLIC).unwrap(), private.public);
        assert_eq!(public_key_of_pem(PRIVATE).unwrap(), private.public);
    }

    #[test]
    fn anything_but_an_ed25519_key_is_refused() {
        assert!(SigningKey::from_seed(&[1; 31]).is_err());
        assert!(SigningKey::from_pem(PUBLIC).is_err());
        assert!(SigningKey::from_pem("hello").is_err());
        assert!(public_key_of_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err());
    }

    #[test]
    fn a_seed_is_read_back_as_it_was_stored() {
        assert_eq!(seed_from_text(&seed_to_text(&[7; 32])).unwrap(), [7; 32]);
    }
}
