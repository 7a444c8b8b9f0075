//! Exports. All requests of one user for one representation are one transfer, which is one job: parallel and
//! resumed downloads do not flood the list of tasks, and the job succeeds when all that was asked for was
//! sent. The bytes themselves never pass through here: each request pulls its own.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use gantry_actors::{
    Durability, EngineError, EngineHandle, JobContext, JobEnd, JobFailure, JobId, NewJob, Progress,
    TaskProperties,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backends::local::Pin;
use crate::ids::{ContentId, DiskFormat, UserId, VdiId};

use super::intervals::Intervals;

/// How long a transfer of which all that was asked for was sent, but not the whole, waits for the next
/// request before it counts as done. Downloaders that read in pieces leave such gaps.
const LINGER: Duration = Duration::from_secs(2);

/// Who wants what.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The user.
    pub user: UserId,
    /// The VDI as it was asked for.
    pub vdi: VdiId,
    /// The content of it.
    pub content: ContentId,
    /// In which form.
    pub format: DiskFormat,
    /// The representation's entity tag.
    pub etag: String,
    /// Its length, bytes.
    pub len: u64,
    /// The part that is asked for.
    pub range: Range<u64>,
}

/// The exports that run or may be taken up again.
#[derive(Clone)]
pub struct ExportDesk {
    engine: EngineHandle,
    detach: Duration,
    closing: CancellationToken,
    transfers: Arc<Mutex<Transfers>>,
}

type Key = (UserId, String);
type Transfers = HashMap<Key, Arc<OnceCell<Arc<Transfer>>>>;

struct Transfer {
    job: JobId,
    vdi: VdiId,
    format: DiskFormat,
    etag: String,
    len: u64,
    progress: Progress,
    stop: CancellationToken,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

#[derive(Default)]
struct Ledger {
    asked: Intervals,
    sent: Intervals,
    readers: usize,
    ended: bool,
    released: bool,
    failure: Option<JobFailure>,
    pin: Option<Arc<Pin>>,
}

impl Transfer {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change is made in one go, so a panic elsewhere leaves it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's part in a transfer. Tell it what was sent; dropping it leaves the transfer.
pub struct Reader {
    transfer: Arc<Transfer>,
}

impl Reader {
    /// The task.
    pub fn task(&self) -> JobId {
        self.transfer.job
    }

    /// Is cancelled when the transfer is aborted.
    pub fn stop(&self) -> &CancellationToken {
        &self.transfer.stop
    }

    /// These bytes of the representation have left for the client.
    pub fn sent(&self, range: Range<u64>) {
        let mut ledger = self.transfer.ledger();
        ledger.sent.add(range);
        let total = ledger.sent.total();
        // The whole: the job ends now, not when the last connection is torn down.
        let whole = total >= self.transfer.len;
        drop(ledger);
        self.transfer.progress.raise_written_to(total);
        if whole {
            self.transfer.changed.notify_one();
        }
    }

    /// The source failed: so does the transfer.
    pub fn failed(&self, failure: JobFailure) {
        self.transfer.ledger().failure.get_or_insert(failure);
        self.transfer.changed.notify_one();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut ledger = self.transfer.ledger();
        ledger.readers = ledger.readers.saturating_sub(1);
        drop(ledger);
        self.transfer.changed.notify_one();
    }
}

impl ExportDesk {
    /// A desk whose cut transfers can be taken up again for `detach`.
    pub fn new(engine: EngineHandle, detach: Duration) -> Self {
        Self { engine, detach, closing: CancellationToken::new(), transfers: Arc::default() }
    }

    /// Joins the transfer that a request belongs to, or begins it. The job is durable when this returns.
    ///
    /// # Errors
    /// When the engine takes no job.
    pub async fn join(&self, request: &ExportRequest, pin: &Arc<Pin>) -> Result<Reader, EngineError> {
        let key = (request.user, request.etag.clone());
        loop {
            let cell = Arc::clone(self.transfers().entry(key.clone()).or_default());
            let transfer =
                match cell.get_or_try_init(|| self.begin(request, Arc::clone(pin), &key, &cell)).await {
                    Ok(transfer) => Arc::clone(transfer),
                    Err(error) => {
                        self.remove(&key, &cell);
                        return Err(error);
                    }
                };
            let mut ledger = transfer.ledger();
            if ledger.ended {
                drop(ledger);
                self.remove(&key, &cell);
                continue;
            }
            ledger.readers += 1;
            ledger.asked.add(request.range.clone());
            drop(ledger);
            transfer.changed.notify_one();
            return Ok(Reader { transfer });
        }
    }

    /// The content of a VDI that a transfer still holds under an entity tag that is no longer the current one.
    pub fn held(&self, vdi: VdiId, etag: &str) -> Option<(Arc<Pin>, DiskFormat)> {
        let transfers = self.transfers();
        transfers.values().filter_map(|cell| cell.get()).find_map(|transfer| {
            if transfer.vdi != vdi || transfer.etag != etag {
                return None;
            }
            let ledger = transfer.ledger();
            Some((Arc::clone(ledger.pin.as_ref()?), transfer.format))
        })
    }

    /// Gives up the transfers of a VDI that nobody reads at the moment; for when it is deleted.
    pub fn release(&self, vdi: VdiId) {
        let transfers = self.transfers();
        for transfer in
            transfers.values().filter_map(|cell| cell.get()).filter(|transfer| transfer.vdi == vdi)
        {
            transfer.ledger().released = true;
            transfer.changed.notify_one();
        }
    }

    /// Gives up all transfers that nobody reads; for when the server stops. Those that are being read go on to
    /// their end.
    pub fn close(&self) {
        self.closing.cancel();
    }

    fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &Key, cell: &Arc<OnceCell<Arc<Transfer>>>) {
        let mut transfers = self.transfers();
        if transfers.get(key).is_some_and(|other| Arc::ptr_eq(other, cell)) {
            transfers.remove(key);
        }
    }

    async fn begin(
        &self,
        request: &ExportRequest,
        pin: Arc<Pin>,
        key: &Key,
        cell: &Arc<OnceCell<Arc<Transfer>>>,
    ) -> Result<Arc<Transfer>, EngineError> {
        let properties = TaskProperties {
            name: format!("Export of VDI {} as {}", request.vdi, request.format),
            task_type: "vdi.export".into(),
            user_id: Some(request.user.to_string()),
            object_id: Some(request.vdi.to_string()),
            object_type: Some("VDI".into()),
            method: Some("GET".into()),
            ..TaskProperties::default()
        };
        let mut new = NewJob::new("vdi.export", properties);
        new.owner = Some(request.user.to_string());
        new.durability = Durability::Behind;
        new.spec = json!({
            "vdi": request.vdi, "content": request.content.to_string(), "format": request.format,
            "etag": request.etag,
        });
        let (hand, handed) = oneshot::channel();
        let (request, desk, key, cell) = (request.clone(), self.clone(), key.clone(), Arc::downgrade(cell));
        self.engine
            .submit(new, move |context: JobContext| async move {
                context.progress().set_total(request.len);
                let transfer = Arc::new(Transfer {
                    job: context.id(),
                    vdi: request.vdi,
                    format: request.format,
                    etag: request.etag.clone(),
                    len: request.len,
                    progress: context.progress().clone(),
                    stop: context.stop().clone(),
                    ledger: Mutex::new(Ledger { pin: Some(pin), ..Ledger::default() }),
                    changed: Notify::new(),
                });
                drop(hand.send(Arc::clone(&transfer)));
                let ended = desk.attend(&transfer, &context).await;
                if let Some(cell) = Weak::upgrade(&cell) {
                    desk.remove(&key, &cell);
                }
                ended
            })
            .await?;
        handed.await.map_err(|_| EngineError::Stopped)
    }

    /// The job of a transfer: waits until it has ended, one way or another.
    async fn attend(&self, transfer: &Transfer, context: &JobContext) -> JobEnd {
        let mut detached = false;
        loop {
            let changed = transfer.changed.notified();
            let wait = match transfer.standing() {
                Standing::Ended(ended) => return ended.into(),
                Standing::Read => {
                    if detached {
                        context.set_running();
                        detached = false;
                    }
                    None
                }
                // Whoever asks next begins a transfer with the next server.
                Standing::Idle | Standing::Left if self.closing.is_cancelled() => {
                    return transfer.give_up_for(JobEnd::Interrupted);
                }
                Standing::Idle => Some(LINGER),
                Standing::Left => {
                    if !detached {
                        context.set_detached();
                        detached = true;
                    }
                    Some(self.detach)
                }
            };
            let waited = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.closing.cancelled(), if wait.is_some() => {}
                () = waited => {
                    if let Some(ended) = transfer.give_up() {
                        return ended.into();
                    }
                }
                () = context.stop().cancelled() => {
                    transfer.close(&mut transfer.ledger());
                    return JobEnd::Aborted;
                }
            }
        }
    }
}

enum Standing {
    /// Somebody reads.
    Read,
    /// Nobody reads, and all that was asked for was sent.
    Idle,
    /// Nobody reads, and something that was asked for was not sent.
    Left,
    /// It is over.
    Ended(Result<Value, JobFailure>),
}

impl Transfer {
    fn close(&self, ledger: &mut Ledger) {
        ledger.ended = true;
        ledger.pin = None;
    }

    fn standing(&self) -> Standing {
        let mut ledger = self.ledger();
        if let Some(failure) = ledger.failure.take() {
            self.close(&mut ledger);
            return Standing::Ended(Err(failure));
        }
        if ledger.sent.contains(0..self.len) && ledger.readers == 0 {
            self.close(&mut ledger);
            return Standing::Ended(Ok(json!({})));
        }
        match (ledger.readers, ledger.sent.covers(&ledger.asked)) {
            (0, _) if ledger.released => {
                self.close(&mut ledger);
                let message = "the VDI was deleted before the download was taken up again";
                Standing::Ended(Err(JobFailure::new("ExportError", "vdi_deleted", message)))
            }
            // A request that has not begun to read yet has asked for something: `asked` is empty only before.
            (0, true) if ledger.asked.total() > 0 => Standing::Idle,
            (0, false) => Standing::Left,
            _ => Standing::Read,
        }
    }

    /// Ends the transfer because the server stops.
    fn give_up_for(&self, otherwise: JobEnd) -> JobEnd {
        let mut ledger = self.ledger();
        self.close(&mut ledger);
        if ledger.sent.covers(&ledger.asked) { JobEnd::Success(json!({})) } else { otherwise }
    }

    /// Ends the transfer if nobody has come back.
    fn give_up(&self) -> Option<Result<Value, JobFailure>> {
        let mut ledger = self.ledger();
        if ledger.readers > 0 {
            return None;
        }
        self.close(&mut ledger);
        if ledger.sent.covers(&ledger.asked) {
            return Some(Ok(json!({})));
        }
        let message = format!(
            "the client left after {} of {} bytes and did not come back",
            ledger.sent.total(),
            self.len
        );
        Some(Err(JobFailure::new("ExportError", "client_gone", message)))
    }
}
