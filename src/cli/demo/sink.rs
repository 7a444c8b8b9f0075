//! Where a download goes: a thread that hashes, compares with a file, and writes sparsely.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::DemoError;

/// Chunks that may wait for the thread.
const WAITING: usize = 8;
/// Granule of holes.
const HOLE_BYTES: usize = 4096;
/// A granule of nothing, to compare with.
const ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];
/// Bytes read at once from a file.
const READ_BYTES: usize = 256 * 1024;

/// What to do with the bytes, besides hashing them.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    /// Write them to this file, from this offset on. From 0 on the file is made anew.
    pub(super) file: Option<(PathBuf, u64)>,
    /// Compare them with this file.
    pub(super) reference: Option<PathBuf>,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    /// Number of bytes.
    pub(super) bytes: u64,
    /// Their SHA-256, in hex.
    pub(super) sha256: String,
    /// The first byte that is not the reference's, or is missing, or is one too many.
    pub(super) differs_at: Option<u64>,
}

/// The thread, seen from the download.
pub(super) struct Sink {
    chunks: mpsc::Sender<Bytes>,
    thread: JoinHandle<Result<Received, DemoError>>,
}

impl Sink {
    pub(super) fn start(target: Target) -> Self {
        let (chunks, arriving) = mpsc::channel(WAITING);
        Self { chunks, thread: tokio::task::spawn_blocking(move || receive(&target, arriving)) }
    }

    /// Hands a chunk over. `false`: the thread has ended early; [`Sink::finish`] says why.
    pub(super) async fn push(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    pub(super) async fn finish(self) -> Result<Received, DemoError> {
        drop(self.chunks);
        self.thread.await?
    }
}

fn receive(target: &Target, mut arriving: mpsc::Receiver<Bytes>) -> Result<Received, DemoError> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut output = target.file.as_ref().map(|(path, from)| Output::open(path, *from)).transpose()?;
    let mut comparison = target.reference.as_deref().map(Comparison::open).transpose()?;
    while let Some(chunk) = arriving.blocking_recv() {
        hash.update(&chunk);
        bytes += chunk.len() as u64;
        if let Some(output) = &mut output {
            output.write(&chunk)?;
        }
        if let Some(comparison) = &mut comparison {
            comparison.next(&chunk)?;
        }
    }
    output.map(Output::finish).transpose()?;
    let differs_at = comparison.map(Comparison::finish).transpose()?.flatten();
    Ok(Received { bytes, sha256: hex(&hash.finalize()), differs_at })
}

/// Reads a whole file as if it came from a download. Blocking.
pub(super) fn check_file(path: &Path, reference: Option<&Path>) -> Result<Received, DemoError> {
    let failed = |source| DemoError::File { action: "read", path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut comparison = reference.map(Comparison::open).transpose()?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        let Some(chunk) = buffer.get(..count).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk);
        bytes += chunk.len() as u64;
        if let Some(comparison) = &mut comparison {
            comparison.next(chunk)?;
        }
    }
    let differs_at = comparison.map(Comparison::finish).transpose()?.flatten();
    Ok(Received { bytes, sha256: hex(&hash.finalize()), differs_at })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Output {
    file: File,
    path: PathBuf,
    at: u64,
}

impl Output {
    fn open(path: &Path, from: u64) -> Result<Self, DemoError> {
        let opened = OpenOptions::new().write(true).create(from == 0).truncate(from == 0).open(path);
        let file = opened.map_err(|source| DemoError::File { action: "open", path: path.into(), source })?;
        Ok(Self { file, path: path.into(), at: from })
    }

    /// Writes what is not zero. The rest of the file is a hole until then.
    fn write(&mut self, chunk: &[u8]) -> Result<(), DemoError> {
        for piece in chunk.chunks(HOLE_BYTES) {
            if ZEROS.get(..piece.len()) != Some(piece) {
                self.file.write_all_at(piece, self.at).map_err(|source| self.failed(source))?;
            }
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), DemoError> {
        self.file.set_len(self.at).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> DemoError {
        DemoError::File { action: "write", path: self.path.clone(), source }
    }
}

/// Goes along a file, as far as it is the same.
struct Comparison {
    file: File,
    path: PathBuf,
    at: u64,
    len: u64,
    buffer: Vec<u8>,
    differs_at: Option<u64>,
}

impl Comparison {
    fn open(path: &Path) -> Result<Self, DemoError> {
        let failed = |source| DemoError::File { action: "open", path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { file, path: path.into(), at: 0, len, buffer: Vec::new(), differs_at: None })
    }

    fn next(&mut self, chunk: &[u8]) -> Result<(), DemoError> {
        if self.differs_at.is_some() {
            return Ok(());
        }
        for piece in chunk.chunks(READ_BYTES) {
            let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
            self.buffer.resize(piece.len().min(left), 0);
            let failed = |source| DemoError::File { action: "read", path: self.path.clone(), source };
            self.file.read_exact_at(&mut self.buffer, self.at).map_err(failed)?;
            if self.buffer == piece {
                self.at += piece.len() as u64;
                continue;
            }
            let same = piece.iter().zip(&self.buffer).take_while(|(one, other)| one == other).count();
            self.differs_at = Some(self.at + same as u64);
            break;
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<u64>, DemoError> {
        Ok(self.differs_at.or_else(|| (self.at < self.len).then_some(self.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn send(target: Target, chunks: &[&[u8]]) -> Received {
        let sink = Sink::start(target);
        for chunk in chunks {
            assert!(sink.push(Bytes::copy_from_slice(chunk)).await);
        }
        sink.finish().await.unwrap()
    }

    #[tokio::test]
    async fn the_first_differing_byte_is_found_whichever_side_is_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reference");
        std::fs::write(&path, b"0123456789").unwrap();
        let cases: [(&[&[u8]], Option<u64>); 5] = [
            (&[b"0123", b"456789"], None),
            (&[b"0123", b"4x6789"], Some(5)),
            (&[b"01234567"], Some(8)),
            (&[b"0123456789", b"0"], Some(10)),
            (&[], Some(0)),
        ];
        for (chunks, differs_at) in cases {
            let target = Target { reference: Some(path.clone()), file: None };
            assert_eq!(send(target, chunks).await.differs_at, differs_at, "{chunks:?}");
        }
        assert_eq!(check_file(&path, Some(&path)).unwrap().differs_at, None);
    }

    #[tokio::test]
    async fn a_file_written_in_two_parts_is_sparse_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut whole = vec![0; 1 << 20];
        whole[5] = 1;
        whole[700_001] = 2;
        let cut = 300_001;
        let first = Target { file: Some((path.clone(), 0)), reference: None };
        assert_eq!(send(first, &[&whole[..cut]]).await.bytes, cut as u64);
        let second = Target { file: Some((path.clone(), cut as u64)), reference: None };
        send(second, &[&whole[cut..]]).await;
        assert!(std::fs::read(&path).unwrap() == whole);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(blocks * 512 < 100_000, "{blocks} blocks");
        let known = check_file(&path, None).unwrap().sha256;
        assert_eq!(known, send(Target::default(), &[&whole]).await.sha256);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_named() {
        let target = Target { file: Some(("/nonexistent/out".into(), 0)), reference: None };
        let sink = Sink::start(target);
        while sink.push(Bytes::from_static(b"x")).await {}
        let error = sink.finish().await.unwrap_err();
        assert!(error.to_string().starts_with("cannot open /nonexistent/out: "), "{error}");
    }
}
