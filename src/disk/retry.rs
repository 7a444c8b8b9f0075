//! Reads that are tried again: one failed read in hours of transfer should not cost the transfer.
//!
//! Only reads, because a read at the same offset gives the same bytes however often it is done; whether a write
//! that failed has happened is not known. And only for what may pass by itself: a device or a network file system
//! that was away for a moment. Missing bytes, a full disk, a file that is gone or broken do not come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::DiskReader;
use super::error::DiskError;

/// How often a read is tried again.
const RETRIES: u32 = 4;
/// The wait before the first retry; each is twice as long as the one before: 1.5 s together.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How often a wait looks whether it should go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A disk whose reads are tried again when they fail for a reason that may pass.
pub struct RetryingReader {
    disk: Arc<dyn DiskReader>,
    stop: CancellationToken,
    retries: AtomicU64,
    first_wait: Duration,
}

impl RetryingReader {
    /// Reads from `disk` until `stop` is cancelled; what fails after that is not tried again.
    pub fn new(disk: Arc<dyn DiskReader>, stop: CancellationToken) -> Self {
        Self { disk, stop, retries: AtomicU64::new(0), first_wait: FIRST_WAIT }
    }

    /// How many reads were tried again, each time counted.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Waits, blocking, for about `time`. False when it was told to stop.
    fn wait(&self, time: Duration) -> bool {
        let mut left = time;
        while !left.is_zero() && !self.stop.is_cancelled() {
            let step = left.min(LOOK_EVERY);
            std::thread::sleep(step);
            left -= step;
        }
        !self.stop.is_cancelled()
    }
}

impl DiskReader for RetryingReader {
    fn virtual_size(&self) -> u64 {
        self.disk.virtual_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let mut tried = 0;
        loop {
            let error = match self.disk.read_at(offset, buf) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if tried >= RETRIES || !may_pass(&error) {
                return Err(error);
            }
            let wait = jittered(self.first_wait.saturating_mul(1 << tried));
            tracing::warn!(offset, len = buf.len(), ?wait, cause = ?error, "a read failed and is tried again");
            if !self.wait(wait) {
                return Err(error);
            }
            tried += 1;
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Half to the whole of `wait`, so that readers that failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers they do come back together, which is no reason to fail.
    let _ = getrandom::fill(&mut byte);
    wait / 2 + (wait / 2).saturating_mul(u32::from(byte[0])) / 255
}

/// Whether the same operation may succeed later.
pub fn may_pass(error: &DiskError) -> bool {
    let DiskError::Io { source, .. } = error else { return false };
    match Errno::from_io_error(source) {
        Some(
            // The call was interrupted, or the kernel was short of something.
            Errno::INTR | Errno::AGAIN | Errno::NOMEM | Errno::BUSY
            // A device or its path failed: multipath switches over, a soft NFS mount says this for a time-out.
            | Errno::IO | Errno::NODEV | Errno::NXIO | Errno::REMOTEIO
            // A network file system whose server is away, or has come back and not found its feet yet.
            | Errno::TIMEDOUT | Errno::STALE | Errno::NETDOWN | Errno::NETUNREACH | Errno::HOSTDOWN
            | Errno::HOSTUNREACH | Errno::CONNRESET | Errno::CONNABORTED | Errno::CONNREFUSED | Errno::NOTCONN
            | Errno::SHUTDOWN | Errno::PIPE,
        ) => true,
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A disk of which reads fail, by a list of what each gives.
    struct Fails {
        answers: Mutex<Vec<Option<DiskError>>>,
        asked: Mutex<Vec<u64>>,
    }

    impl DiskReader for Fails {
        fn virtual_size(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
            self.asked.lock().unwrap().push(offset);
            // A failed read leaves anything in the buffer.
            buf.fill(0xEE);
            match self.answers.lock().unwrap().pop().flatten() {
                Some(error) => Err(error),
                None => {
                    buf.fill(7);
                    Ok(())
                }
            }
        }
    }

    fn io(errno: Errno) -> Option<DiskError> {
        Some(DiskError::Io { action: "read", path: "disk".into(), offset: Some(512), source: errno.into() })
    }

    /// A reader over a disk whose next reads give `answers`, the last one first.
    fn reader(answers: Vec<Option<DiskError>>) -> (Arc<Fails>, RetryingReader) {
        let disk = Arc::new(Fails { answers: Mutex::new(answers), asked: Mutex::default() });
        let reader = RetryingReader::new(Arc::clone(&disk) as _, CancellationToken::new());
        (disk, RetryingReader { first_wait: Duration::from_millis(1), ..reader })
    }

    #[test]
    fn a_read_that_fails_some_times_gives_its_bytes_from_the_same_offset() {
        // The first read is good, the second fails three times.
        let (disk, reader) = reader(vec![None, io(Errno::STALE), io(Errno::TIMEDOUT), io(Errno::IO), None]);
        let mut buf = [0; 16];
        reader.read_at(0, &mut buf).unwrap();
        assert_eq!((buf, reader.retries()), ([7; 16], 0));
        reader.read_at(512, &mut buf).unwrap();
        assert_eq!((buf, reader.retries()), ([7; 16], 3));
        assert_eq!(*disk.asked.lock().unwrap(), [0, 512, 512, 512, 512]);
    }

    #[test]
    fn a_read_that_fails_always_is_an_error_after_four_retries() {
        let (disk, reader) = reader((0..20).map(|_| io(Errno::IO)).collect());
        let found = reader.read_at(512, &mut [0; 16]);
        assert!(matches!(found, Err(DiskError::Io { .. })), "{found:?}");
        assert_eq!((reader.retries(), disk.asked.lock().unwrap().len()), (4, 5));
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        let short = DiskError::ShortFile { path: "disk".into(), offset: 0, expected: 16, found: 4 };
        for error in [short, DiskError::NotFound { path: "disk".into() }, io(Errno::ACCESS).unwrap()] {
            let (disk, reader) = reader(vec![Some(error)]);
            assert!(reader.read_at(0, &mut [0; 16]).is_err());
            assert_eq!((reader.retries(), disk.asked.lock().unwrap().len()), (0, 1));
        }
    }

    #[test]
    fn a_reader_that_was_told_to_stop_does_not_try_again() {
        let (disk, reader) = reader(vec![io(Errno::IO), io(Errno::IO)]);
        reader.stop.cancel();
        assert!(reader.read_at(0, &mut [0; 16]).is_err());
        assert_eq!(disk.asked.lock().unwrap().len(), 1);
        // And one that waits already ends its wait.
        let reader = RetryingReader {
            first_wait: Duration::from_secs(3600),
            stop: CancellationToken::new(),
            ..reader
        };
        let stop = reader.stop.clone();
        let waits = std::thread::spawn(move || reader.read_at(0, &mut [0; 16]).is_err());
        while disk.asked.lock().unwrap().len() < 2 {
            std::thread::yield_now();
        }
        stop.cancel();
        assert!(waits.join().unwrap());
    }
}
