//! Digests that a client declares of what it uploads (RFC 9530), and what is computed to check them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

/// An algorithm that is active in the registry; the others are too weak to vouch for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `sha-256`
    Sha256,
    /// `sha-512`
    Sha512,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "sha-256" => Some(Self::Sha256),
            "sha-512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The name that HTTP knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }
}

/// A digest that the whole must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// Its value.
    pub value: Vec<u8>,
}

/// What is wrong with a header that declares digests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member:?} is not a digest of the form sha-256=:BASE64:")]
pub struct BadDigest {
    /// The member of the header that cannot be understood.
    pub member: String,
}

/// Reads `Content-Digest` or `Repr-Digest`. Algorithms that are not checked are left out.
///
/// # Errors
/// [`BadDigest`] when it cannot be understood: its sender believes to be protected.
pub fn declared(header: &str) -> Result<Vec<Declared>, BadDigest> {
    let mut list = Vec::new();
    for member in header.split(',').map(str::trim) {
        let bad = || BadDigest { member: member.chars().take(120).collect() };
        let (name, value) = member.split_once('=').ok_or_else(bad)?;
        let base64 = value.strip_prefix(':').and_then(|value| value.strip_suffix(':')).ok_or_else(bad)?;
        let value = STANDARD.decode(base64).map_err(|_| bad())?;
        if let Some(algorithm) = Algorithm::named(name) {
            if value.len() != algorithm.bytes() {
                return Err(bad());
            }
            list.push(Declared { algorithm, value });
        }
    }
    Ok(list)
}

/// Computes what is needed to check declared digests.
pub struct Checker {
    declared: Vec<Declared>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl Checker {
    /// Begins, for these digests.
    pub fn new(declared: Vec<Declared>) -> Self {
        let wants = |algorithm| declared.iter().any(|one| one.algorithm == algorithm);
        Self {
            sha256: wants(Algorithm::Sha256).then(Sha256::new),
            sha512: wants(Algorithm::Sha512).then(Sha512::new),
            declared,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha512 {
            hash.update(bytes);
        }
    }

    /// The first digest that does not match, with what was found instead; both in base64.
    pub fn mismatch(self) -> Option<(Algorithm, String, String)> {
        let sha256 = self.sha256.map(|hash| hash.finalize().to_vec());
        let sha512 = self.sha512.map(|hash| hash.finalize().to_vec());
        self.declared.into_iter().find_map(|one| {
            let found = match one.algorithm {
                Algorithm::Sha256 => sha256.as_ref(),
                Algorithm::Sha512 => sha512.as_ref(),
            }?;
            (*found != one.value)
                .then(|| (one.algorithm, STANDARD.encode(&one.value), STANDARD.encode(found)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";

    #[test]
    fn a_digest_that_matches_is_no_mismatch() {
        let checker = Checker::new(declared(EMPTY).unwrap());
        assert_eq!(checker.mismatch(), None);
    }

    #[test]
    fn a_digest_that_does_not_match_is_named_with_both_values() {
        let mut checker = Checker::new(declared(&format!("unixsum=:AAA=:, {EMPTY}")).unwrap());
        checker.update(b"x");
        let (algorithm, expected, found) = checker.mismatch().unwrap();
        assert_eq!(
            (algorithm, expected.as_str()),
            (Algorithm::Sha256, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
        );
        assert_eq!(found, "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=");
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for header in ["", "sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:AAAA:", "sha-256=:!!:"] {
            assert!(declared(header).is_err(), "{header}");
        }
    }
}
