//! The thread that owns the connection, and the handle by which everybody else asks it.

use std::any::Any;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::StateError;
use super::ballast::Ballast;
use super::migrations::{self, MIGRATIONS};

/// Calls that may wait for the thread; further callers wait for a place.
const QUEUE_CALLS: usize = 256;

/// How long one waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The write-ahead log is cut back to this size, in bytes, when it has been copied into the database.
const WAL_KEEP_BYTES: i64 = 8 << 20;

enum Command {
    Run(Box<dyn FnOnce(&mut Worker) + Send>),
    Close(oneshot::Sender<()>),
}

/// A handle to the state database. Clones share the thread that owns the connection; the database is closed when
/// the last one is dropped, or by [`Db::close`].
///
/// Once a call is queued it runs, also when its caller has gone. A panic in a call is that call's error.
#[derive(Debug, Clone)]
pub struct Db {
    queue: mpsc::Sender<Command>,
}

impl Db {
    /// Opens the database, or makes it (mode 0600), and brings it to the version of this program. Its folder has to
    /// exist and gets the ballast file too. Blocks.
    ///
    /// # Errors
    /// [`StateError::Foreign`] and [`StateError::Newer`] leave the file as it is; [`StateError::Full`],
    /// [`StateError::Busy`] and others as they come.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_with(path, MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), source };
        // SQLite gives its log and index the mode of the database, which it would make readable for everybody
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(io)?;
        migrations::sync_folder_of(path)?;
        let mut ballast = Ballast::beside(path);
        let conn = match connect(path, migrations) {
            Err(StateError::Full) if ballast.release() => connect(path, migrations)?,
            other => other?,
        };
        let (queue, mut commands) = mpsc::channel(QUEUE_CALLS);
        let mut worker = Worker { conn, ballast };
        let serve = move || {
            let mut closed = None;
            while let Some(command) = commands.blocking_recv() {
                match command {
                    Command::Run(call) => call(&mut worker),
                    Command::Close(done) => {
                        closed = Some(done);
                        break;
                    }
                }
            }
            drop(worker);
            // its receiver may have gone, which changes nothing
            let _ = closed.map(|done| done.send(()));
        };
        std::thread::Builder::new().name("gantry-state".to_owned()).spawn(serve).map_err(io)?;
        Ok(Self { queue })
    }

    /// Runs a call on the database's thread: for reading, and for single writes that need no retry. What belongs
    /// together goes through [`Db::transaction`].
    ///
    /// # Errors
    /// What the call returns; [`StateError::Panicked`] if it panics; [`StateError::Closed`].
    pub async fn call<R, F>(&self, call: F) -> Result<R, StateError>
    where
        F: FnOnce(&mut Connection) -> Result<R, StateError> + Send + 'static,
        R: Send + 'static,
    {
        let (command, answer) = command(move |worker| worker.run(call));
        self.queue.send(command).await.map_err(|_| StateError::Closed)?;
        answer.await.map_err(|_| StateError::Closed)?
    }

    /// Runs a call in one transaction that writes: committed and on disk when it returns `Ok`, undone otherwise. When
    /// the disk is full, the ballast is given up and the call runs a second time: it may have no effects but those
    /// in the transaction.
    ///
    /// # Errors
    /// As [`Db::call`]; [`StateError::Full`] if the second time did not help.
    pub async fn transaction<R, F>(&self, call: F) -> Result<R, StateError>
    where
        F: FnMut(&Transaction<'_>) -> Result<R, StateError> + Send + 'static,
        R: Send + 'static,
    {
        let (command, answer) = command(move |worker| worker.run_transaction(call));
        self.queue.send(command).await.map_err(|_| StateError::Closed)?;
        answer.await.map_err(|_| StateError::Closed)?
    }

    /// [`Db::call`] for threads that may block; never on an executor's thread, where it panics.
    ///
    /// # Errors
    /// As [`Db::call`].
    pub fn call_blocking<R, F>(&self, call: F) -> Result<R, StateError>
    where
        F: FnOnce(&mut Connection) -> Result<R, StateError> + Send + 'static,
        R: Send + 'static,
    {
        let (command, answer) = command(move |worker| worker.run(call));
        self.queue.blocking_send(command).map_err(|_| StateError::Closed)?;
        answer.blocking_recv().map_err(|_| StateError::Closed)?
    }

    /// [`Db::transaction`] for threads that may block; never on an executor's thread, where it panics.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    pub fn transaction_blocking<R, F>(&self, call: F) -> Result<R, StateError>
    where
        F: FnMut(&Transaction<'_>) -> Result<R, StateError> + Send + 'static,
        R: Send + 'static,
    {
        let (command, answer) = command(move |worker| worker.run_transaction(call));
        self.queue.blocking_send(command).map_err(|_| StateError::Closed)?;
        answer.blocking_recv().map_err(|_| StateError::Closed)?
    }

    /// Queues a write whose outcome nobody waits for; a failure goes to the log.
    ///
    /// # Errors
    /// [`StateError::Overloaded`] when the queue has no place, [`StateError::Closed`].
    pub fn post<F>(&self, what: &'static str, call: F) -> Result<(), StateError>
    where
        F: FnMut(&Transaction<'_>) -> Result<(), StateError> + Send + 'static,
    {
        let command = Command::Run(Box::new(move |worker: &mut Worker| {
            if let Err(error) = worker.run_transaction(call) {
                tracing::warn!(%error, what, "state was not written");
            }
        }));
        self.queue.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StateError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => StateError::Closed,
        })
    }

    /// Ends what is queued, closes the file and stops the thread. Later calls get [`StateError::Closed`].
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Command::Close(done)).await.is_ok() {
            // an error means that somebody else has closed it
            let _ = closed.await;
        }
    }

    /// [`Db::close`] for threads that may block.
    pub fn close_blocking(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.blocking_send(Command::Close(done)).is_ok() {
            let _ = closed.blocking_recv();
        }
    }
}

/// A command that runs the work and the place where its answer arrives.
fn command<R, F>(work: F) -> (Command, oneshot::Receiver<R>)
where
    F: FnOnce(&mut Worker) -> R + Send + 'static,
    R: Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    let run = move |worker: &mut Worker| {
        // the caller may have gone, which makes the work no less done
        let _ = answer.send(work(worker));
    };
    (Command::Run(Box::new(run)), receiver)
}

fn connect(path: &Path, migrations: &[&str]) -> Result<Connection, StateError> {
    let mut conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    migrations::check(&conn, path, known).map_err(|error| not_a_database(error, path))?;
    set_wal(&conn)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    migrations::migrate(&mut conn, path, migrations)?;
    migrations::index(&conn);
    Ok(conn)
}

/// Switches to the write-ahead log. SQLite does not wait for others here, whatever the timeout.
fn set_wal(conn: &Connection) -> Result<(), StateError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let set = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match set.map_err(StateError::from) {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => return Err(StateError::corrupt("journal mode", &mode)),
            Err(StateError::Busy) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

fn not_a_database(error: StateError, path: &Path) -> StateError {
    match &error {
        StateError::Database(inner)
            if inner.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) =>
        {
            StateError::Foreign { path: path.to_owned(), application_id: 0 }
        }
        _ => error,
    }
}

/// What the thread owns.
struct Worker {
    conn: Connection,
    ballast: Ballast,
}

impl Worker {
    fn run<R>(
        &mut self,
        call: impl FnOnce(&mut Connection) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        let outcome = self.attempt(call);
        if matches!(outcome, Err(StateError::Full)) {
            self.ballast.release();
        } else {
            self.ballast.restore(Instant::now());
        }
        outcome
    }

    fn run_transaction<R>(
        &mut self,
        mut call: impl FnMut(&Transaction<'_>) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        let mut once = |conn: &mut Connection| {
            let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = call(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        match self.attempt(&mut once) {
            Err(StateError::Full) if self.ballast.release() => self.attempt(&mut once),
            outcome => {
                self.ballast.restore(Instant::now());
                outcome
            }
        }
    }

    /// One call, whose panic becomes its error, and after which no transaction is left open.
    fn attempt<R>(
        &mut self,
        call: impl FnOnce(&mut Connection) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        // the connection is sound after an unwind: rusqlite's guards reset statements and roll back
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut self.conn)));
        if !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        outcome.unwrap_or_else(|panic| Err(StateError::Panicked { message: panic_text(panic.as_ref()) }))
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// A database of the current version for tests of the repositories.
#[cfg(test)]
pub(super) fn memory() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    conn.pragma_update(None, "foreign_keys", true).unwrap();
    migrations::migrate(&mut conn, Path::new(":memory:"), MIGRATIONS).unwrap();
    migrations::index(&conn);
    conn
}

#[cfg(test)]
mod tests;
