//! The life of a server: opens the state, recovers, listens, drains.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_server::ServerHandle;
use actix_web::web;
use gantry_actors::{Engine, EngineConfig, EngineError};
use tokio::task::JoinHandle;

use crate::auth::{self, AccountError, AdminPasswordSource, Authenticator, Passwords};
use crate::backends::local::{LocalError, LocalStore};
use crate::config::{Config, Limits, Tls};
use crate::disk::worker::spawn_worker;
use crate::image::budget::Budget;
use crate::image::compute::ComputePool;
use crate::rest::{self, App, Idempotency, ServiceError};
use crate::state::{DataDir, DataDirError, Db, StateError, documents, jobs};
use crate::tls::{Certificate, TlsError};
use crate::transfers::admission;
use crate::transfers::export::{self, ExportDesk};
use crate::transfers::journal::SqliteJournal;
use crate::transfers::resume::Resumer;

/// How long recovery of the jobs may take before the start counts as failed.
const RECOVERY: Duration = Duration::from_secs(60);

/// How long the end waits for the SRs' directories.
const SETTLE: Duration = Duration::from_secs(10);

/// A server that could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The state database.
    #[error(transparent)]
    State(#[from] StateError),
    /// The first user.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The store.
    #[error(transparent)]
    Store(#[from] LocalError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A thread of the start.
    #[error("the start was broken off: {0}")]
    Broken(#[from] tokio::task::JoinError),
    /// Jobs of the last run.
    #[error("the jobs of the last run could not be read within {} s", RECOVERY.as_secs())]
    Recovery,
}

/// A server that runs. It must be told to stop; dropping it leaves it running.
pub struct RunningServer {
    /// Where it listens, with the ports that were taken.
    pub addresses: Vec<SocketAddr>,
    /// Whether it speaks TLS.
    pub secure: bool,
    certificate: Option<Certificate>,
    app: web::Data<App>,
    engine: Engine,
    handle: ServerHandle,
    serving: JoinHandle<std::io::Result<()>>,
    sweeping: JoinHandle<()>,
    _data: DataDir,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Transfers that had to be stopped because they did not end in time.
    pub cut: usize,
}

/// Starts a server. Must be called within an actix system.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub async fn start(config: Config) -> Result<RunningServer, StartError> {
    // Only the first call in a process installs it; a later one finds it there.
    drop(rustls::crypto::ring::default_provider().install_default());
    let path = config.data.clone();
    let (data, db) = tokio::task::spawn_blocking(move || -> Result<_, StartError> {
        let data = DataDir::open_exclusive(&path)?;
        let db = Db::open(&data.database_path())?;
        Ok((data, db))
    })
    .await??;
    let passwords = Passwords::new();
    let first = auth::ensure_admin(&data, &db, &passwords, &AdminPasswordSource::from_env()).await?;
    first.announce();
    let tls = match config.tls.is_on() {
        true => {
            let (tls, folder) = (config.tls.clone(), config.data.clone());
            Some(tokio::task::spawn_blocking(move || Certificate::load(&tls, &folder)).await??)
        }
        false => None,
    };
    if let Some(certificate) = &tls {
        let (fingerprint, self_signed) = (certificate.fingerprint(), config.tls.self_signed);
        tracing::info!(fingerprint, self_signed, "the certificate's SHA-256 fingerprint is {fingerprint}");
    }
    let store = open_store(&config, &db).await?;
    let transfers = &config.transfers;
    let budget = Budget::new(transfers.memory_budget.bytes(), transfers.window.bytes());
    let (detach, queue_wait) = (transfers.detach.get(), transfers.queue_wait.get());
    let compute = ComputePool::for_this_machine().map_err(LocalError::from)?;
    let exports = ExportDesk::new(store.clone(), Arc::clone(&budget), compute, detach, queue_wait);
    let resumer = Resumer { exports: exports.clone(), store: store.clone() };
    let journal = SqliteJournal::new(db.clone());
    let engine = Engine::start_resuming(engine_config(&config), Arc::new(journal), Arc::new(resumer))?;
    exports.open(engine.handle().clone());
    match tokio::time::timeout(RECOVERY, engine.handle().recovered()).await {
        Ok(report) => {
            let report = report?;
            if report.interrupted > 0 {
                tracing::warn!(jobs = report.interrupted, "jobs of the last run were interrupted");
            }
            if report.resumed > 0 {
                tracing::info!(jobs = report.resumed, "jobs of the last run go on");
            }
        }
        Err(_) => return Err(StartError::Recovery),
    }
    store.release_kept();
    let accounts = auth::Accounts::new(&data, db.clone(), passwords.clone());
    let users = (Authenticator::new(db.clone(), passwords, &config.auth), accounts);
    let drain = config.transfers.drain.get();
    let app = web::Data::new(App::new(config, store, users, engine.handle().clone(), exports, budget));
    Idempotency::settle(&app).await?;
    let listening = match rest::bind(&app, tls.as_ref().map(Certificate::server_config).as_ref(), drain) {
        Ok(listening) => listening,
        Err(error) => {
            engine.stop().await;
            return Err(error.into());
        }
    };
    let serving = actix_rt::spawn(listening.server);
    let sweeping = actix_rt::spawn(rest::sweep_connections(app.clone()));
    app.set_ready(true);
    Ok(RunningServer {
        addresses: listening.addresses,
        secure: tls.is_some(),
        certificate: tls,
        app,
        engine,
        handle: listening.handle,
        serving,
        sweeping,
        _data: data,
    })
}

async fn open_store(config: &Config, db: &Db) -> Result<LocalStore, StartError> {
    // Replaced content that a download of the last run may go on reading stays until that is decided.
    let unfinished = db.call(|db| jobs::unfinished(db)).await?;
    let (mut needed, mut documents) = (HashSet::new(), Vec::new());
    for job in unfinished {
        let Ok(spec) = serde_json::from_str::<serde_json::Value>(&job.spec) else { continue };
        let needs = export::needs(&job.kind, spec.get("job").unwrap_or(&serde_json::Value::Null));
        needed.extend(needs.contents);
        documents.extend(needs.document);
    }
    db.transaction(move |tx| documents::retain(tx, &documents)).await?;
    let (db, data, options) = (db.clone(), config.data.clone(), config.storage.clone());
    Ok(tokio::task::spawn_blocking(move || LocalStore::open(db, &data, options, &needed)).await??)
}

fn engine_config(config: &Config) -> EngineConfig {
    EngineConfig {
        keep: usize::try_from(config.tasks.keep).unwrap_or(usize::MAX),
        max_age: config.tasks.max_age.get(),
        limits: admission::admission_limits(&config.limits),
        bandwidth: admission::bandwidth_limits(&config.limits),
        ..EngineConfig::default()
    }
}

impl RunningServer {
    /// The addresses as URLs.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.secure { "https" } else { "http" };
        self.addresses.iter().map(|address| format!("{scheme}://{address}")).collect()
    }

    /// Other limits from now on, for transfers at work too where that makes sense: rates at once, numbers with the
    /// next that begins.
    pub fn set_limits(&self, limits: &Limits) {
        let engine = self.engine.handle();
        engine.set_limits(admission::admission_limits(limits));
        engine.set_bandwidth(admission::bandwidth_limits(limits));
    }

    /// Reads the certificate anew that a configuration names, for who takes it with [`Self::show`]. `None` when this
    /// server, or that configuration, is without TLS: that cannot change while it runs.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub async fn read_certificate(&self, tls: &Tls) -> Result<Option<Certificate>, StartError> {
        if self.certificate.is_none() || !tls.is_on() {
            return Ok(None);
        }
        let (tls, folder) = (tls.clone(), self.app.config.data.clone());
        Ok(Some(tokio::task::spawn_blocking(move || Certificate::load(&tls, &folder)).await??))
    }

    /// Shows another certificate to whoever connects from now on. Connections that are there go on.
    pub fn show(&self, fresh: &Certificate) {
        if let Some(certificate) = &self.certificate {
            certificate.replace_with(fresh);
        }
    }

    /// Resolves when the HTTP server has ended by itself, which it should not.
    pub async fn ended(&mut self) -> std::io::Result<()> {
        match (&mut self.serving).await {
            Ok(ended) => ended,
            Err(error) => Err(std::io::Error::other(error)),
        }
    }

    /// Stops gently: takes no new work, lets running transfers end for as long as `transfers.drain` says, stops
    /// the others, writes everything down.
    pub async fn stop(self) -> Stopped {
        self.app.set_ready(false);
        let drain = self.app.config.transfers.drain.get();
        self.app.closing.cancel();
        self.app.store.leave_replaced();
        let draining = self.engine.handle().drain(drain);
        // The engine first, so that transfers without a reader are left to the next server. New connections are
        // refused at once; the running answers end with their jobs, or with the time.
        let (report, (), ()) =
            tokio::join!(draining, async { self.app.exports.close() }, self.handle.stop(true));
        self.sweeping.abort();
        if !self.serving.is_finished() {
            drop(self.serving.await);
        }
        if let Err(error) = &report.flushed {
            tracing::error!(%error, "the journal could not be written to its end");
        }
        let store = self.app.store.clone();
        // On a thread of its own, which nobody has to wait for if the storage hangs.
        if let Ok(settled) = spawn_worker("settle", move || store.settle())
            && tokio::time::timeout(SETTLE, settled).await.is_err()
        {
            tracing::error!("the names of the disks could not be written into the SRs' directories in time");
        }
        self.engine.stop().await;
        self.app.store.db().close().await;
        Stopped { cut: report.stopped }
    }
}
