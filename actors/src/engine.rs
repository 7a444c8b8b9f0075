//! The engine on threads of its own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix::System;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::handle::EngineHandle;
use crate::journal::Journal;
use crate::root::give_up;
use crate::shared::Health;
use crate::work::{NoResume, Resume};

/// How long blocking work of jobs may hold up the end of the engine.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// A running engine. Started once, in `main`: it must live in no HTTP worker. Dropping it stops it without
/// waiting; [`Engine::stop`] waits.
#[derive(Debug)]
pub struct Engine {
    handle: EngineHandle,
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Starts the engine: a thread with an actix system for its actors, and a runtime for the jobs. It reads
    /// its journal back by itself; see [`EngineHandle::recovered`].
    ///
    /// # Errors
    /// [`EngineError::Threads`] when the system gives no more threads.
    pub fn start(config: EngineConfig, journal: Arc<dyn Journal>) -> Result<Self, EngineError> {
        Self::start_resuming(config, journal, Arc::new(NoResume))
    }

    /// The same, with somebody who knows how to go on with the jobs of the server before.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_resuming(
        config: EngineConfig,
        journal: Arc<dyn Journal>,
        resume: Arc<dyn Resume>,
    ) -> Result<Self, EngineError> {
        let jobs = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.workers.max(1))
            .thread_name("gantry-job")
            .enable_all()
            .build()
            .map_err(EngineError::Threads)?;
        let (started, handle) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("gantry-engine".into())
            .spawn(move || {
                run(config, journal, resume, &jobs, &started, stopped);
                jobs.shutdown_timeout(LEFTOVERS);
                let _ = ending.send(());
            })
            .map_err(EngineError::Threads)?;
        // The thread says it before it runs anything else, or is gone.
        let handle = handle.recv().map_err(|_| EngineError::Stopped)?;
        Ok(Self { handle, stop: Some(stop), ended, thread })
    }

    /// What everybody else works with.
    pub fn handle(&self) -> &EngineHandle {
        &self.handle
    }

    /// Stops the engine and waits until its threads have ended. Jobs that are still at work are cut off at
    /// their next await; [`EngineHandle::drain`] before it is the gentle way.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.ended).await;
        // It has nothing left to do but return. It cannot have panicked past its last statement.
        let _ = self.thread.join();
    }
}

/// The engine thread's life.
fn run(
    config: EngineConfig,
    journal: Arc<dyn Journal>,
    resume: Arc<dyn Resume>,
    jobs: &Runtime,
    started: &std::sync::mpsc::SyncSender<EngineHandle>,
    stopped: oneshot::Receiver<()>,
) {
    let jobs = jobs.handle().clone();
    System::new().block_on(async move {
        let (handle, died) = EngineHandle::start_watched(config, journal, resume, jobs);
        let shared = Arc::clone(handle.shared());
        let _ = started.send(handle);
        let health = tokio::select! {
            _ = stopped => Health::Stopped,
            _ = died => Health::Failed,
        };
        give_up(&shared, health);
    });
}
