//! The keys that access tokens are signed with: Ed25519, one that signs and any number that are still believed.
//!
//! A key's id is its RFC 7638 thumbprint, so the same key has the same id wherever it is read.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use banyan_core::Fault;
use banyan_http::Claims;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

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
    /// If the 32 bytes are no key.
    pub fn from_seed(seed: &[u8]) -> anyhow::Result<Self> {
        if seed.len() != 32 {
            bail!("an Ed25519 key has 32 bytes, not {}", seed.len());
        }
        SigningKey::of(
            &Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| anyhow!("this is no Ed25519 key: {error}"))?,
        )
    }

    /// # Errors
    /// If `pem` holds no Ed25519 key in PKCS#8.
    pub fn from_pem(pem: &str) -> anyhow::Result<Self> {
        let der = pem_body(pem, "PRIVATE KEY").context("expected a PEM with a PRIVATE KEY (PKCS#8)")?;
        SigningKey::of(
            &Ed25519KeyPair::from_pkcs8(&der).map_err(|error| anyhow!("this is no Ed25519 key in PKCS#8: {error}"))?,
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
    /// `others` are believed besides the one that signs.
    pub fn new(signing: SigningKey, others: Vec<Jwk>) -> Self {
        let mut published = vec![signing.public.clone()];
        for other in others {
            if !published.contains(&other) {
                published.push(other);
            }
        }
        Keys { signing, published }
    }

    /// What everybody may know, the key that signs first.
    pub fn published(&self) -> &[Jwk] {
        &self.published
    }

    /// A signed access token.
    ///
    /// # Errors
    /// `internal`.
    pub fn sign(&self, claims: &Claims) -> Result<String, Fault> {
        let header = Header {
            kid: Some(self.signing.public.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, claims, &self.signing.private)
            .map_err(|error| Fault::internal("unsigned_token", error.to_string()))
    }
}

/// The public key in a PEM file that holds a public or a private one.
///
/// # Errors
/// If it holds neither.
pub fn public_key_of_pem(pem: &str) -> anyhow::Result<Jwk> {
    /// SubjectPublicKeyInfo of an Ed25519 key, up to the key itself (RFC 8410, section 10.1).
    const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    match pem_body(pem, "PUBLIC KEY") {
        Some(der) if der.len() == 44 && der.starts_with(&SPKI) => Ok(Jwk::of(&der[SPKI.len()..])),
        Some(_) => bail!("this is no Ed25519 public key"),
        None => Ok(SigningKey::from_pem(pem)?.public),
    }
}

/// # Errors
/// If the file cannot be read; names it.
pub async fn read_pem(path: &Path) -> anyhow::Result<String> {
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

/// How a seed is kept as text.
pub fn seed_to_text(seed: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(seed)
}

/// # Errors
/// If it is not what [`seed_to_text`] wrote.
pub fn seed_from_text(text: &str) -> anyhow::Result<Vec<u8>> {
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
    fn the_private_and_the_public_file_of_a_key_name_the_same_key() {
        let private = SigningKey::from_pem(PRIVATE).unwrap();
        assert_eq!(public_key_of_pem(PUBLIC).unwrap(), private.public);
        assert_eq!(public_key_of_pem(PRIVATE).unwrap(), private.public);
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        assert!(SigningKey::from_seed(&[1; 31]).is_err());
        assert!(SigningKey::from_pem(PUBLIC).is_err());
        assert!(SigningKey::from_pem("hello").is_err());
        assert!(public_key_of_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err());
    }

    #[test]
    fn a_seed_reads_back_as_it_was_kept() {
        assert_eq!(seed_from_text(&seed_to_text(&[7; 32])).unwrap(), [7; 32]);
    }
}
