//! News as it happens: the streams behind `GET /events` and `GET /tasks?watch=true`.
//!
//! For each kind that somebody is subscribed to, one [`follow::Follower`] hears of changes (the store's change
//! bus, the engine's), looks at what has changed and tells the [`registry::Registry`], which puts it into the
//! [`outlet::Outlet`] of every stream that is subscribed and may see it. The connection takes it from there when
//! it has room. A stream that does not is dropped at a bound; nobody waits for it.

mod follow;
mod frame;
mod kind;
mod known;
mod outlet;
mod registry;
pub mod routes;
mod standing;
#[cfg(test)]
mod test_support;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use gantry_actors::EngineHandle;

use crate::auth::Principal;
use crate::ids::UserId;
use crate::inventory::Inventory;
use crate::state::Db;

use super::connection::Connection;
use super::error::ApiError;

use follow::{Follower, Source};
pub use kind::Kind;
pub use known::{Change, News};
pub use outlet::{Heartbeat, NoBody, OutletBody};
pub use registry::{Form, Liner};
use registry::{Limits, Refused, Registry};
use standing::Standing;

/// How often credentials of open streams are looked at again.
const REVIEW: Duration = Duration::from_secs(2);
/// How long a subscription may wait until the objects have been looked through.
const BEGIN: Duration = Duration::from_secs(20);
/// How often a stream with nothing to say shows that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(30);

/// All streams of a server, and what they are told.
#[derive(Debug, Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    /// Who follows which kind; `true` once all objects have been looked through.
    followed: Mutex<HashMap<Kind, watch::Receiver<bool>>>,
    inventory: Inventory,
    engine: EngineHandle,
    db: Db,
    runtime: Handle,
    closing: CancellationToken,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// A stream that was opened.
pub struct Opened {
    /// Its id.
    pub id: Uuid,
    /// What it sends.
    pub outlet: Arc<outlet::Outlet>,
    place: Place,
}

/// A stream's place among the open ones, which it gives up when this is dropped.
pub struct Place {
    id: Uuid,
    events: Events,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.events.inner.registry.leave(self.id);
    }
}

impl Opened {
    /// The body of its answer.
    pub fn into_body(self, heartbeat: Heartbeat) -> OutletBody<Place> {
        OutletBody::new(self.outlet, heartbeat, self.place)
    }
}

impl Events {
    /// No streams yet. They all end when `closing` is cancelled. Must be called within the runtime of the server,
    /// which outlives those of its workers.
    pub fn new(inventory: Inventory, engine: EngineHandle, db: Db, closing: CancellationToken) -> Self {
        let inner = Arc::new(Inner {
            registry: Registry::new(Limits::default()),
            followed: Mutex::default(),
            inventory,
            engine,
            db,
            runtime: Handle::current(),
            closing,
        });
        inner.runtime.spawn(attend(Arc::downgrade(&inner), inner.closing.clone()));
        Self { inner }
    }

    /// Opens a stream for whoever has asked for it on a connection.
    ///
    /// # Errors
    /// When there are too many, or the server is stopping.
    pub async fn open(
        &self,
        principal: &Principal,
        connection: Option<Weak<Connection>>,
    ) -> Result<Opened, ApiError> {
        let standing = Standing::of(principal, &self.inner.db).await?.ok_or(ApiError::Unauthenticated)?;
        let cut = move || {
            if let Some(connection) = connection.as_ref().and_then(Weak::upgrade) {
                connection.cut();
            }
        };
        let opened = self.inner.registry.open(principal.clone(), standing, Box::new(cut));
        let (id, outlet) = opened.map_err(|refused| ApiError::NoStream {
            message: match refused {
                Refused::All(limit) => {
                    format!("{limit} streams of events are open already: the most there may be")
                }
                Refused::OfUser(limit) => {
                    format!("{limit} streams of events of this user are open already: close some")
                }
                Refused::Closing => "the server is stopping".into(),
            },
        })?;
        Ok(Opened { id, outlet, place: Place { id, events: self.clone() } })
    }

    /// Whether the user has a stream of that id.
    pub fn is_of(&self, id: Uuid, user: UserId) -> bool {
        self.inner.registry.is_of(id, user)
    }

    /// Subscribes a user's stream to a kind. What happens after this has returned is told. Answers whether there
    /// is such a stream.
    ///
    /// # Errors
    /// When the objects cannot be looked through.
    pub async fn subscribe(&self, id: Uuid, user: UserId, kind: Kind, form: Form) -> Result<bool, ApiError> {
        if !self.inner.registry.subscribe(id, user, kind, form) {
            return Ok(false);
        }
        let source = match kind {
            Kind::Task => Source::Tasks(self.inner.engine.clone()),
            Kind::Objects(collection) => Source::Objects(self.inner.inventory.clone(), collection),
            Kind::Empty(_) => return Ok(true),
        };
        let mut begun = self.inner.followed(kind, source);
        let done = matches!(timeout(BEGIN, begun.wait_for(|begun| *begun)).await, Ok(Ok(_)));
        if done {
            return Ok(true);
        }
        self.inner.registry.unsubscribe(id, user, kind);
        Err(ApiError::NoStream {
            message: format!("the objects of type {} cannot be looked through at present", kind.name()),
        })
    }

    /// Ends a subscription. Answers whether there is such a stream.
    pub fn unsubscribe(&self, id: Uuid, user: UserId, kind: Kind) -> bool {
        self.inner.registry.unsubscribe(id, user, kind)
    }
}

impl Inner {
    /// Lets somebody follow a kind, unless somebody does.
    fn followed(self: &Arc<Self>, kind: Kind, source: Source) -> watch::Receiver<bool> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = followed.get(&kind) {
            return begun.clone();
        }
        let (begin, begun) = watch::channel(false);
        followed.insert(kind, begun.clone());
        let watched = Watched { inner: Arc::clone(self), kind, over: false };
        self.runtime.spawn(watched.follow(source, begin));
        begun
    }
}

/// A kind that is being followed. If that ends otherwise than by wish, nobody is left with a stream that is
/// silent for no reason.
struct Watched {
    inner: Arc<Inner>,
    kind: Kind,
    over: bool,
}

impl Watched {
    async fn follow(mut self, source: Source, begin: watch::Sender<bool>) {
        let (inner, kind) = (Arc::clone(&self.inner), self.kind);
        let mut follower = Follower::new(source, &inner.registry, kind);
        let following = async {
            follower.begin().await;
            begin.send_replace(true);
            while follower.step().await && !self.is_over() {}
        };
        tokio::select! {
            () = following => {}
            () = inner.closing.cancelled() => self.over = true,
        }
    }

    /// Whether nobody is subscribed any more; whoever subscribes from then on begins anew.
    fn is_over(&mut self) -> bool {
        let mut followed = self.inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.inner.registry.is_wanted(self.kind) {
            followed.remove(&self.kind);
            self.over = true;
        }
        self.over
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut followed = self.inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.remove(&self.kind);
        drop(followed);
        let ended = self.inner.registry.end_kind(self.kind);
        tracing::error!(kind = self.kind.name(), ended, "changes are followed no longer: streams were ended");
    }
}

/// Looks after the streams until the server stops, and ends them then.
async fn attend(inner: Weak<Inner>, closing: CancellationToken) {
    while timeout(REVIEW, closing.cancelled()).await.is_err() {
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = standing::review(&inner.registry, &inner.db).await {
            tracing::warn!(%error, "the credentials of open streams could not be looked at");
        }
        inner.registry.cut_overdue();
    }
    let Some(inner) = inner.upgrade() else { return };
    inner.registry.close();
    tokio::time::sleep(registry::LEAVE).await;
    inner.registry.cut_overdue();
}
