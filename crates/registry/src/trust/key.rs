//! Keys: ECDSA on the curve P-256 with SHA-256, in PEM, as cosign and OpenSSL keep them.
//!
//! Source: RFC 5958 (PKCS #8), RFC 5915 (`EC PRIVATE KEY`), RFC 5480 (`PUBLIC KEY`), RFC 7468 (PEM).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};

use super::{Error, sealed};
use crate::blob::digest_of;

/// What precedes the point in the DER form of every P-256 public key.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Length of an uncompressed point.
const POINT: usize = 65;

/// What stands between the outer length and the inner key when an `EC PRIVATE KEY` is put into PKCS #8: version 0 and the algorithm.
const PKCS8: [u8; 24] = [
    0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

/// A key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    point: [u8; POINT],
}

/// A key that signs.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: VerifyingKey,
}

impl VerifyingKey {
    /// Reads a `PUBLIC KEY` in PEM.
    ///
    /// # Errors
    /// [`Error::Key`] when the text holds no P-256 public key.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes())
            .map_err(|_| Error::key("there is no `-----BEGIN PUBLIC KEY-----` in it"))?;
        let point = der.strip_prefix(&SPKI).and_then(|point| <[u8; POINT]>::try_from(point).ok());
        match point.filter(|point| point[0] == 4) {
            Some(point) => Ok(Self { point }),
            None => Err(Error::key("it is a public key of another kind than ECDSA on the curve P-256")),
        }
    }

    fn der(&self) -> Vec<u8> {
        [&SPKI[..], &self.point].concat()
    }

    /// The key as `PUBLIC KEY` in PEM.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    /// SHA-256 of the key's DER form in hexadecimal: how people and documents name it.
    pub fn id(&self) -> String {
        digest_of(&self.der()).hex()
    }

    /// Whether `signature` (ASN.1 DER) is one of this key over `message`.
    pub fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(message, signature).is_ok()
    }
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey {}", self.id())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey of {}", self.public.id())
    }
}

impl SigningKey {
    /// A new key, and the same in PEM: behind the password as cosign keeps it, or, without one, as `PRIVATE KEY` that only its owner may be able to read.
    ///
    /// # Errors
    /// [`Error::Key`] when the operating system gives no randomness.
    pub fn generate(password: Option<&str>) -> Result<(Self, String), Error> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let document = made.map_err(|_| Error::key("the operating system gave no randomness"))?;
        let text = match password {
            Some(password) => sealed::seal(document.as_ref(), password)?,
            None => pem("PRIVATE KEY", document.as_ref()),
        };
        Ok((Self::from_pkcs8(document.as_ref())?, text))
    }

    /// Reads a `PRIVATE KEY` or `EC PRIVATE KEY` in PEM, or cosign's encrypted form of the first.
    ///
    /// # Errors
    /// [`Error::Key`] when the text holds no P-256 private key, one that is encrypted in another way, or one whose password is missing or wrong.
    pub fn from_pem(text: &str, password: Option<&str>) -> Result<Self, Error> {
        if sealed::is_sealed(text) {
            let password = password.ok_or_else(|| Error::key("it is encrypted, and there is no password"))?;
            return Self::from_pkcs8(&sealed::open(text, password)?);
        }
        if text.contains("-----BEGIN ENCRYPTED ") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(Error::key("it is encrypted in another way than cosign's, which is not read"));
        }
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(key)) => Self::from_pkcs8(key.secret_pkcs8_der()),
            Ok(PrivateKeyDer::Sec1(key)) => Self::from_pkcs8(&in_pkcs8(key.secret_sec1_der())?),
            Ok(_) => Err(Error::key("it is a private key of another kind than ECDSA on the curve P-256")),
            Err(_) => Err(Error::key("there is no `-----BEGIN PRIVATE KEY-----` in it")),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new());
        let pair = pair.map_err(|why| {
            Error::key(format!("it is no ECDSA key on the curve P-256 that holds its public key too ({why})"))
        })?;
        let point = pair.public_key().as_ref().try_into();
        let public = VerifyingKey { point: point.map_err(|_| Error::key("its public key has another length"))? };
        Ok(Self { pair, public })
    }

    /// The key that checks what this one signs.
    pub const fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs; ASN.1 DER.
    ///
    /// # Errors
    /// [`Error::Key`] when the operating system gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        Ok(signed.map_err(|_| Error::key("the operating system gave no randomness"))?.as_ref().to_vec())
    }
}

/// An `EC PRIVATE KEY` as PKCS #8. Both lengths fit one byte each for this curve.
fn in_pkcs8(sec1: &[u8]) -> Result<Vec<u8>, Error> {
    let too_long = |_| Error::key("it is longer than a key on the curve P-256 is");
    let inner = match u8::try_from(sec1.len()).map_err(too_long)? {
        length @ 0..=127 => [&[0x04, length], sec1].concat(),
        length => [&[0x04, 0x81, length], sec1].concat(),
    };
    let all = [&PKCS8[..], &inner].concat();
    Ok(match u8::try_from(all.len()).map_err(too_long)? {
        length @ 0..=127 => [&[0x30, length], &all[..]].concat(),
        length => [&[0x30, 0x81, length], &all[..]].concat(),
    })
}

/// DER or other bytes in PEM.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines = String::new();
    for start in (0..text.len()).step_by(64) {
        lines.push_str(&text[start..text.len().min(start + 64)]);
        lines.push('\n');
    }
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by OpenSSL 3 for this test: `openssl ecparam -name prime256v1 -genkey -noout`, and the same by `openssl pkey`.
    const SEC1: &str = include_str!("testdata/openssl-ec.pem");
    const OPENSSL: &str = include_str!("testdata/openssl-pkcs8.pem");
    const PUBLIC: &str = include_str!("testdata/openssl-public.pem");

    #[test]
    fn keys_of_openssl_are_read_in_both_forms() {
        let public = VerifyingKey::from_pem(PUBLIC).unwrap();
        assert_eq!(public.to_pem(), PUBLIC);
        for text in [SEC1, OPENSSL] {
            let key = SigningKey::from_pem(text, None).unwrap();
            assert_eq!(*key.public(), public);
            assert!(public.accepts(b"wine", &key.sign(b"wine").unwrap()));
        }
    }

    #[test]
    fn a_generated_key_signs_and_nothing_else_passes() {
        let (key, text) = SigningKey::generate(None).unwrap();
        assert_eq!(SigningKey::from_pem(&text, None).unwrap().public(), key.public());
        let mut signature = key.sign(b"wine").unwrap();
        assert!(key.public().accepts(b"wine", &signature) && !key.public().accepts(b"wines", &signature));
        for place in 0..signature.len() {
            signature[place] ^= 1;
            assert!(!key.public().accepts(b"wine", &signature), "byte {place}");
            signature[place] ^= 1;
        }
    }

    #[test]
    fn other_keys_are_refused_with_the_reason() {
        let told = |error: Error| error.to_string();
        let encrypted =
            "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n";
        assert!(told(SigningKey::from_pem(encrypted, None).unwrap_err()).contains("there is no password"));
        assert!(told(SigningKey::from_pem(encrypted, Some("p")).unwrap_err()).contains("damaged"));
        let openssl = encrypted.replace("SIGSTORE ", "");
        assert!(told(SigningKey::from_pem(&openssl, Some("p")).unwrap_err()).contains("another way than cosign's"));
        assert!(told(SigningKey::from_pem(PUBLIC, None).unwrap_err()).contains("PRIVATE KEY"));
        assert!(told(VerifyingKey::from_pem(OPENSSL).unwrap_err()).contains("PUBLIC KEY"));
        let other = pem("PUBLIC KEY", &[0x30, 0x03, 1, 2, 3]);
        assert!(told(VerifyingKey::from_pem(&other).unwrap_err()).contains("another kind"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}", bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = (SigningKey::from_pem(&text, None), VerifyingKey::from_pem(&text));
            let _ = SigningKey::from_pem(&pem("EC PRIVATE KEY", &bytes), None);
            let _ = VerifyingKey::from_pem(&pem("PUBLIC KEY", &bytes));
        }
    }
}
