//! Digests as they are asked for over the network: SHA-256 or SHA-512.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256, Sha512};

/// A digest of either algorithm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnyDigest {
    algorithm: Algorithm,
    hex: String,
}

/// The algorithms of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Its name within a digest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|known| known.name() == name)
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected `sha256:` or `sha512:` and 64 or 128 lower-case hexadecimal digits")]
pub struct AnyDigestError(String);

impl AnyDigest {
    /// Its algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The same digest, if it is one of SHA-256.
    pub fn sha256(&self) -> Option<Digest> {
        (self.algorithm == Algorithm::Sha256).then(|| self.to_string().parse().ok()).flatten()
    }

    /// The digest of these bytes.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for AnyDigest {
    type Err = AnyDigestError;

    fn from_str(text: &str) -> Result<Self, AnyDigestError> {
        let refuse = || AnyDigestError(text.chars().take(80).collect());
        let (name, hex) = text.split_once(':').ok_or_else(refuse)?;
        let algorithm = Algorithm::named(name).ok_or_else(refuse)?;
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match hex.len() == algorithm.digits() && hex.bytes().all(digit) {
            true => Ok(Self { algorithm, hex: hex.to_owned() }),
            false => Err(refuse()),
        }
    }
}

impl fmt::Display for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl From<&Digest> for AnyDigest {
    fn from(digest: &Digest) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: digest.hex() }
    }
}

/// A hash that is being computed.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// The algorithm that it computes.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything that was taken.
    pub fn finish(self) -> AnyDigest {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => AnyDigest { algorithm: Algorithm::Sha256, hex: hex(&hasher.finalize()) },
            Self::Sha512(hasher) => AnyDigest { algorithm: Algorithm::Sha512, hex: hex(&hasher.finalize()) },
        }
    }

    /// Takes everything that `source` gives.
    pub fn read(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut chunk = vec![0; 256 << 10];
        loop {
            match source.read(&mut chunk)? {
                0 => return Ok(()),
                length => self.update(&chunk[..length]),
            }
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_both_algorithms_are_read_and_computed() {
        let empty = AnyDigest::of(Algorithm::Sha256, b"");
        assert_eq!(empty.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let long = AnyDigest::of(Algorithm::Sha512, b"");
        assert!(long.to_string().starts_with("sha512:cf83e1357eefb8bd"), "{long}");
        for digest in [&empty, &long] {
            assert_eq!(digest.to_string().parse::<AnyDigest>().as_ref(), Ok(digest));
        }
        let upper = empty.to_string().to_uppercase();
        for text in ["", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../etc", &upper] {
            assert!(text.parse::<AnyDigest>().is_err(), "{text}");
        }
    }
}
