//! Certificates: the operator's own, or one that is made at the first start.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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

/// The TLS side of a server. Reads files, and writes them when a certificate is to be made. Blocks.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(tls: &Tls, data: &Path) -> Result<ServerConfig, TlsError> {
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
    Ok(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private)?)
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
