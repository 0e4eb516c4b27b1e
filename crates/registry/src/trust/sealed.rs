//! Private keys behind a password, as cosign keeps them: PKCS #8 in a NaCl secretbox, its key from the password by scrypt.
//!
//! Source: go-securesystemslib's package `encrypted` (the JSON within the PEM); RFC 7914 (scrypt); NaCl's `crypto_secretbox`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;

/// What stands in the first line of such a key: cosign's name for it today, and its older one.
pub const LABELS: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];

/// Cost of the keys that are made: 2^16 blocks of 8 · 128 bytes, 64 MiB, as cosign takes.
const COST: Cost = Cost { n: 1 << 16, r: 8, p: 1 };

/// Most memory that a key may ask for, in bytes: four times that of cosign's.
const MAX_MEMORY: u64 = 256 << 20;

/// Most lanes that a key may ask for; each costs the whole time again.
const MAX_LANES: u32 = 4;

#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Derivation {
    name: String,
    params: Cost,
    salt: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Cost {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

/// Whether the text is a key behind a password.
pub fn is_sealed(text: &str) -> bool {
    LABELS.iter().any(|label| text.contains(&format!("-----BEGIN {label}-----")))
}

/// The PKCS #8 within.
///
/// # Errors
/// [`Error::Key`] when the text is no such key, asks for more work than is reasonable, or the password is not its.
pub fn open(text: &str, password: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let damaged = || Error::key("it is damaged: cosign's form of an encrypted key cannot be read from it");
    let body = LABELS.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        Some(rest.split_once(&format!("-----END {label}-----"))?.0)
    });
    let body: String = body.ok_or_else(damaged)?.split_whitespace().collect();
    let json = STANDARD.decode(body).map_err(|_| damaged())?;
    let sealed: Sealed = serde_json::from_slice(&json).map_err(|_| damaged())?;
    if sealed.kdf.name != "scrypt" || sealed.cipher.name != "nacl/secretbox" {
        return Err(Error::key(format!(
            "it is encrypted with {:.40} and {:.40}; what is read is scrypt and nacl/secretbox",
            sealed.kdf.name, sealed.cipher.name
        )));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| damaged());
    let nonce: [u8; 24] = bytes(&sealed.cipher.nonce)?.try_into().map_err(|_| damaged())?;
    let key = derive(password, &bytes(&sealed.kdf.salt)?, sealed.kdf.params)?;
    let opened = XSalsa20Poly1305::new(&key).decrypt(Nonce::from_slice(&nonce), bytes(&sealed.ciphertext)?.as_slice());
    opened.map(Zeroizing::new).map_err(|_| Error::key("the password is not that of this key, or the key was changed"))
}

/// A PKCS #8 behind a password, in PEM.
///
/// # Errors
/// [`Error::Key`] when the operating system gives no randomness.
pub fn seal(der: &[u8], password: &str) -> Result<String, Error> {
    seal_at(der, password, COST)
}

fn seal_at(der: &[u8], password: &str, cost: Cost) -> Result<String, Error> {
    let (mut salt, mut nonce) = ([0; 32], [0; 24]);
    let none = |_| Error::key("the operating system gave no randomness");
    getrandom::fill(&mut salt).map_err(none)?;
    getrandom::fill(&mut nonce).map_err(none)?;
    let key = derive(password, &salt, cost)?;
    let ciphertext = XSalsa20Poly1305::new(&key)
        .encrypt(Nonce::from_slice(&nonce), der)
        .map_err(|_| Error::key("it is too long to encrypt"))?;
    let sealed = Sealed {
        kdf: Derivation { name: "scrypt".into(), params: cost, salt: STANDARD.encode(salt) },
        cipher: Cipher { name: "nacl/secretbox".into(), nonce: STANDARD.encode(nonce) },
        ciphertext: STANDARD.encode(ciphertext),
    };
    let json = serde_json::to_vec(&sealed).map_err(|why| Error::key(why.to_string()))?;
    Ok(super::key::pem(LABELS[0], &json))
}

fn derive(password: &str, salt: &[u8], cost: Cost) -> Result<Key, Error> {
    let memory = cost.n.checked_mul(u64::from(cost.r)).and_then(|blocks| blocks.checked_mul(128));
    if memory.is_none_or(|memory| memory > MAX_MEMORY) || cost.p > MAX_LANES {
        return Err(Error::key(format!("it asks for more work than any key of cosign does ({cost:?})")));
    }
    let log_n = u8::try_from(cost.n.checked_ilog2().unwrap_or(0)).unwrap_or(0);
    let params = scrypt::Params::new(log_n, cost.r, cost.p).ok().filter(|_| cost.n.is_power_of_two());
    let params = params.ok_or_else(|| Error::key(format!("its cost is none that scrypt has ({cost:?})")))?;
    let mut key = Key::default();
    scrypt::scrypt(password.as_bytes(), salt, &params, &mut key)
        .map_err(|_| Error::key("its cost is none that scrypt has"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { n: 16, r: 1, p: 1 };

    fn told(result: Result<Zeroizing<Vec<u8>>, Error>) -> String {
        result.unwrap_err().to_string()
    }

    /// The text with one part of its JSON replaced.
    fn changed(text: &str, change: impl Fn(&mut serde_json::Value)) -> String {
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut json = serde_json::from_slice(&STANDARD.decode(body).unwrap()).unwrap();
        change(&mut json);
        super::super::key::pem(LABELS[1], &serde_json::to_vec(&json).unwrap())
    }

    #[test]
    fn only_the_password_opens_what_was_sealed() {
        let text = seal_at(b"a key", "correct horse", CHEAP).unwrap();
        assert!(is_sealed(&text) && !text.contains("a key"));
        assert_eq!(*open(&text, "correct horse").unwrap(), b"a key");
        assert_eq!(*open(&changed(&text, |_| ()), "correct horse").unwrap(), b"a key", "the older label");
        assert!(told(open(&text, "correct horses")).contains("the password is not"));
        let flipped = changed(&text, |json| json["ciphertext"] = STANDARD.encode([7; 40]).into());
        assert!(told(open(&flipped, "correct horse")).contains("or the key was changed"));
    }

    #[test]
    fn keys_that_cost_too_much_or_are_none_are_refused() {
        let text = seal_at(b"a key", "p", CHEAP).unwrap();
        for (part, value, why) in [
            ("N", 1u64 << 30, "more work"),
            ("r", u64::from(u32::MAX), "more work"),
            ("p", 5, "more work"),
            ("N", 0, "none that scrypt has"),
            ("N", 17, "none that scrypt has"),
            ("p", 0, "none that scrypt has"),
        ] {
            let dear = changed(&text, |json| json["kdf"]["params"][part] = serde_json::json!(value));
            assert!(told(open(&dear, "p")).contains(why), "{part} {value}: {}", told(open(&dear, "p")));
        }
        let other = changed(&text, |json| json["kdf"]["name"] = "argon2".into());
        assert!(told(open(&other, "p")).contains("argon2"));
        let short = changed(&text, |json| json["cipher"]["nonce"] = "AAAA".into());
        assert!(told(open(&short, "p")).contains("damaged"));
        assert!(told(open(&text[..text.len() - 20], "p")).contains("damaged"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}", json in "\\PC{0,200}") {
            let _ = open(&text, "p");
            let _ = open(&super::super::key::pem(LABELS[0], json.as_bytes()), "p");
        }
    }
}
