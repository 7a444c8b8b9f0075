//! The HTTP service: Xen Orchestra's REST dialect. Knows routes, rights, ranges and errors; what is done is
//! done by `transfers` and `backends`.

mod access;
mod address;
mod answers;
mod audit;
mod caller;
mod coding;
mod collections;
mod connection;
mod edge;
mod error;
mod events;
mod exports;
mod flow;
mod idempotency;
mod imports;
mod markdown;
mod networks;
mod openapi;
mod origin;
mod preconditions;
mod public;
mod query;
mod ranges;
mod renewal;
mod revocation;
mod router;
mod routes;
mod rpc;
mod service;
mod srs;
mod swagger_ui;
mod tasks;
mod token_request;
mod users;
mod vbds;
mod vdi_actions;
mod vdis;
mod vms;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_actors::EngineHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::audit::Audit;
use crate::auth::{Accounts, Authenticator};
use crate::backends::local::LocalStore;
use crate::config::Config;
use crate::image::budget::Budget;
use crate::inventory::Inventory;
use crate::transfers::export::ExportDesk;
use crate::transfers::import::WindowReserve;

use revocation::Revocations;

pub use connection::Connections;
use events::Events;
pub use idempotency::Idempotency;
pub use service::{Listening, ServiceError, bind, sweep_connections};

/// The type of JSON answers.
const JSON: &str = "application/json; charset=utf-8";

/// Everything that requests need, shared by all workers.
pub struct App {
    /// The configuration as it was at the start.
    pub config: Config,
    /// The store.
    pub store: LocalStore,
    /// What is in it, in the contract's shape.
    pub inventory: Inventory,
    /// Checks credentials.
    pub authenticator: Authenticator,
    /// What is written down of what they do.
    pub audit: Audit,
    /// Makes, changes and removes users.
    pub accounts: Accounts,
    /// Runs the jobs.
    pub engine: EngineHandle,
    /// The exports that run.
    pub exports: ExportDesk,
    /// The memory of all transfers.
    pub budget: Arc<Budget>,
    /// The memory of decompressors' large windows.
    pub windows: WindowReserve,
    /// The connections of all clients.
    pub connections: Connections,
    /// Streams of events and of tasks.
    events: Events,
    /// Cancelled when the server begins to stop: streams without an end of their own end then.
    pub closing: CancellationToken,
    /// The requests that tokens have begun.
    revocations: Revocations,
    /// Connections that speak JSON-RPC.
    rpc: rpc::Desk,
    /// The requests with an idempotency key.
    pub idempotency: Idempotency,
    ready: AtomicBool,
}

impl App {
    /// A service of a store, not ready yet. Must be called within the server's own runtime.
    pub fn new(
        config: Config,
        store: LocalStore,
        (authenticator, accounts): (Authenticator, Accounts),
        engine: EngineHandle,
        exports: ExportDesk,
        budget: Arc<Budget>,
    ) -> Self {
        let (inventory, closing) = (Inventory::new(store.clone()), CancellationToken::new());
        Self {
            events: Events::new(inventory.clone(), engine.clone(), store.db().clone(), closing.clone()),
            closing,
            inventory,
            exports,
            budget,
            windows: WindowReserve::default(),
            connections: Connections::default(),
            revocations: Revocations::default(),
            rpc: rpc::Desk::default(),
            idempotency: Idempotency::new(store.db().clone()),
            audit: Audit::new(store.db().clone()),
            ready: AtomicBool::new(false),
            config,
            store,
            authenticator,
            accounts,
            engine,
        }
    }

    /// Says whether new work is welcome.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether new work is welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}
