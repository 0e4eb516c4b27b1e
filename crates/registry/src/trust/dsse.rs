//! Envelopes: bytes of a stated type and signatures over both (DSSE).
//!
//! Source: DSSE protocol and envelope 1.0.2 (secure-systems-lab).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::{Error, SigningKey, VerifyingKey};

/// A payload and who signed it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Signature {
    // A hint without authority. Cosign leaves it empty, and refuses ids that it would not make itself.
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// What is signed: type and payload, each with its length, so that neither can be read as part of the other.
fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Base64 as the specification allows it: of either alphabet.
fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

impl Envelope {
    /// Puts a payload into an envelope and signs it.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn seal(payload_type: &str, payload: &[u8], key: &SigningKey) -> Result<Self, Error> {
        let signature = STANDARD.encode(key.sign(&signed_bytes(payload_type, payload))?);
        Ok(Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![Signature { keyid: String::new(), sig: signature }],
        })
    }

    /// The payload, if it is of that type, and the first of `keys` that signed it. Without a key nobody stands for the payload.
    ///
    /// # Errors
    /// Why it is no such envelope, in words.
    pub fn open(&self, payload_type: &str, keys: &[VerifyingKey]) -> Result<(Vec<u8>, Option<String>), &'static str> {
        if self.payload_type != payload_type {
            return Err("its payload is of another type");
        }
        let payload = decoded(&self.payload).ok_or("its payload is no base64")?;
        if self.signatures.is_empty() {
            return Err("it carries no signature");
        }
        let message = signed_bytes(payload_type, &payload);
        let signatures: Option<Vec<Vec<u8>>> =
            self.signatures.iter().map(|signature| decoded(&signature.sig)).collect();
        let signatures = signatures.ok_or("a signature is no base64")?;
        let signed = |key: &&VerifyingKey| signatures.iter().any(|signature| key.accepts(&message, signature));
        Ok((payload, keys.iter().find(signed).map(VerifyingKey::id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_what_the_specification_says() {
        // The example of the specification.
        let bytes = signed_bytes("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        // Lengths count bytes.
        assert_eq!(signed_bytes("é", b""), "DSSEv1 2 é 0 ".as_bytes());
    }

    #[test]
    fn an_envelope_opens_for_its_key_and_type_and_for_no_changed_byte() {
        let ((key, _), (other, _)) = (SigningKey::generate(None).unwrap(), SigningKey::generate(None).unwrap());
        let keys = [other.public().clone(), key.public().clone()];
        let sealed = Envelope::seal("text", b"wine", &key).unwrap();
        assert_eq!(sealed.open("text", &keys).unwrap(), (b"wine".to_vec(), Some(key.public().id())));
        assert_eq!(sealed.open("text", &keys[..1]).unwrap().1, None);
        assert!(sealed.open("texts", &keys).is_err());
        let changed = Envelope { payload: STANDARD.encode(b"vine"), ..sealed.clone() };
        assert_eq!(changed.open("text", &keys).unwrap().1, None);
        let bare = Envelope { signatures: Vec::new(), ..sealed };
        assert!(bare.open("text", &keys).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_document_makes_it_panic(kind in ".{0,20}", payload in ".{0,60}", sig in ".{0,60}") {
            let envelope = Envelope { payload_type: kind.clone(), payload, signatures: vec![Signature { keyid: String::new(), sig }] };
            let (key, _) = SigningKey::generate(None).unwrap();
            let opened = envelope.open(&kind, std::slice::from_ref(key.public()));
            proptest::prop_assert!(opened.is_err() || opened.unwrap().1.is_none());
        }
    }
}
