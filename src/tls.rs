//! Certificates: the operator's own, or one that is made at the first start. Another one can be taken while connections
//! go on: they keep theirs, and new ones get the new.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::config::Tls;

/// TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it should be.
    #[error("{} is no usable {what}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// Only one of the two files is named.
    #[error("tls.cert and tls.key belong together: name both, or set tls.self_signed")]
    Half,
    /// Certificate and key do not fit each other.
    #[error("the certificate cannot be used: {0}")]
    Rejected(#[from] rustls::Error),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be kept.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The certificate that new connections get. Clones share it.
#[derive(Debug, Clone)]
pub struct Certificate {
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificate {
    /// Reads the files, and writes them when a certificate is to be made. Blocks.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(tls: &Tls, data: &Path) -> Result<Self, TlsError> {
        let key = certified_key(tls, data)?;
        Ok(Self { current: Arc::new(Current(RwLock::new(Arc::new(key)))) })
    }

    /// Takes the other's place.
    pub fn replace_with(&self, other: &Self) {
        let fresh = Arc::clone(&other.current.0.read().unwrap_or_else(PoisonError::into_inner));
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// The SHA-256 of the certificate, as browsers and openssl show it.
    pub fn fingerprint(&self) -> String {
        let current = self.current.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = current.cert.first() else { return String::new() };
        let bytes: Vec<String> = Sha256::digest(own).iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }

    /// The TLS side of a server that shows it.
    pub fn server_config(&self) -> ServerConfig {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&self.current);
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver)
    }
}

fn certified_key(tls: &Tls, data: &Path) -> Result<CertifiedKey, TlsError> {
    let (cert, key) = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) => self_signed(data)?,
        _ => return Err(TlsError::Half),
    };
    let unusable = |path: &Path, what, error: rustls::pki_types::pem::Error| TlsError::Unusable {
        path: path.to_path_buf(),
        what,
        reason: error.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(&cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(&cert, "certificate", error))?;
    if chain.is_empty() {
        let reason = "no certificate in it".into();
        return Err(TlsError::Unusable { path: cert, what: "certificate", reason });
    }
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, "private key", error))?;
    // Refuses a key that is another certificate's.
    Ok(CertifiedKey::from_der(chain, private, &default_provider())?)
}

/// The certificate that was made at the first start, or is made now.
fn self_signed(data: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (data.join("tls-cert.pem"), data.join("tls-key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host];
    let made = rcgen::generate_simple_self_signed(names)?;
    // The key first, readable by nobody else: a certificate without its key would be taken for complete.
    write(&key, &made.signing_key.serialize_pem(), 0o600)?;
    write(&cert, &made.cert.pem(), 0o644)?;
    Ok((cert, key))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let fresh = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path));
    written.map_err(|source| TlsError::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_known_by_its_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls { self_signed: true, ..Tls::default() };
        let first = Certificate::load(&tls, dir.path()).unwrap();
        let again = Certificate::load(&tls, dir.path()).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.fingerprint().len(), 32 * 3 - 1);
        let other = tempfile::tempdir().unwrap();
        let other = Certificate::load(&tls, other.path()).unwrap();
        assert_ne!(first.fingerprint(), other.fingerprint());
        first.replace_with(&other);
        assert_eq!(first.fingerprint(), other.fingerprint());
    }

    #[test]
    fn the_key_of_another_certificate_is_refused() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let self_signed = Tls { self_signed: true, ..Tls::default() };
        for dir in &dirs {
            Certificate::load(&self_signed, dir.path()).unwrap();
        }
        let [one, other] = dirs.each_ref().map(|dir| dir.path());
        let mixed =
            |key: PathBuf| Tls { cert: Some(one.join("tls-cert.pem")), key: Some(key), self_signed: false };
        assert!(Certificate::load(&mixed(one.join("tls-key.pem")), one).is_ok());
        let refused = Certificate::load(&mixed(other.join("tls-key.pem")), one);
        assert!(matches!(refused, Err(TlsError::Rejected(_))), "{refused:?}");
    }
}
