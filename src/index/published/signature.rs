//! Signatures of published indexes: Ed25519 (RFC 8032), keys as OpenSSL makes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// A key whose signatures are believed, written as OpenSSL prints it between the lines of a PEM file, or as the 32 bytes alone, in
/// base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not shown: it may be the private one.
    #[error(
        "this is no public key; write what stands between the lines of `openssl pkey -in KEYFILE -pubout` (an Ed25519 key)"
    )]
    Public,
    #[error("it holds no Ed25519 private key in PEM; make one with `openssl genpkey -algorithm ed25519 -out KEYFILE`")]
    Private,
}

/// What stands before the 32 bytes in a SubjectPublicKeyInfo (RFC 8410, section 4).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

// === impl PublicKey ===

impl PublicKey {
    /// What indexes call the key.
    pub fn id(&self) -> Digest {
        Digest::of(&self.0)
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Public)?;
        let key = bytes.strip_prefix(&PREFIX).unwrap_or(&bytes);
        key.try_into().map(Self).map_err(|_| KeyError::Public)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([PREFIX.as_slice(), &self.0].concat()))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// The key in a PEM file (PKCS#8).
    pub fn of_pem(pem: &str) -> Result<Self, KeyError> {
        let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----").ok_or(KeyError::Private)?;
        let (body, _) = rest.split_once("-----END PRIVATE KEY-----").ok_or(KeyError::Private)?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| KeyError::Private)?;
        // OpenSSL's form leaves the public key out, which is made of the private one.
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| KeyError::Private)
    }

    pub fn public(&self) -> Option<PublicKey> {
        self.0.public_key().as_ref().try_into().ok().map(PublicKey)
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 3: its key in PKCS#8 (version 1, as OpenSSL writes it) and its public key.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIMWqjfQ/n4N77bdELzHct7Fm04U1B28JS4XOOi4LRFj3\n-----END PRIVATE KEY-----\n";
    const PUBLIC: [u8; 4] = [0xfc, 0x51, 0xcd, 0x8e];

    #[test]
    fn a_key_of_openssl_signs_as_the_standard_has_it() {
        let key = SigningKey::of_pem(PEM).unwrap();
        let public = key.public().unwrap();
        assert!(public.0.starts_with(&PUBLIC));
        let signature = key.sign(&[0xaf, 0x82]);
        assert!(signature.starts_with(&[0x62, 0x91, 0xd6, 0x57, 0xde, 0xec, 0x24, 0x02]));
        assert!(public.verifies(&[0xaf, 0x82], &signature));
        assert!(!public.verifies(&[0xaf, 0x83], &signature));
        assert_eq!(public.to_string().parse(), Ok(public.clone()));
        assert_eq!(STANDARD.encode(public.0).parse(), Ok(public));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "AAAA", "not base64", &STANDARD.encode([1; 33])] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        // The private key, where the public one should be.
        let private = PEM.lines().nth(1).unwrap();
        let said = private.parse::<PublicKey>().unwrap_err().to_string();
        assert!(!said.contains(&private[..20]), "{said}");
        for text in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----"]
        {
            assert!(SigningKey::of_pem(text).is_err(), "{text}");
        }
    }
}
