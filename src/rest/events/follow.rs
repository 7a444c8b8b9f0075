//! Following a kind: hears of changes, looks at what has changed, and tells the registry what is new about it.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use gantry_actors::{EngineHandle, JobId, TaskChange, TaskView};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::timeout;

use crate::backends::local::{LocalError, ObjectChange};
use crate::inventory::{Collection, Inventory, Place, Placed};

use super::known::{Known, Sighting};
use super::registry::Registry;

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);
/// After which time a look that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is asked whether anybody still listens, when nothing happens.
const IDLE: Duration = Duration::from_secs(30);
/// Changes that are looked at one by one; of more, all objects are looked at.
const ONE_BY_ONE: usize = 4096;
/// Objects that are read from the database in one go.
const PAGE_ROWS: u32 = 200;

/// Where the objects of a kind are.
#[derive(Debug, Clone)]
pub enum Source {
    /// In a collection.
    Objects(Inventory, Collection),
    /// In the engine.
    Tasks(EngineHandle),
}

/// An object could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The store has failed.
    #[error(transparent)]
    Store(#[from] LocalError),
    /// It takes too long.
    #[error("no answer within {} s", LOOK.as_secs())]
    Slow,
}

impl Source {
    fn listen(&self) -> Ear {
        match self {
            Self::Objects(inventory, collection) => Ear::Objects(inventory.changes(), *collection),
            Self::Tasks(engine) => Ear::Tasks(engine.subscribe(), engine.clone()),
        }
    }

    async fn one(&self, id: &str) -> Result<Option<Sighting>, LookError> {
        match self {
            Self::Objects(inventory, collection) => {
                let looked = timeout(LOOK, inventory.object(*collection, id)).await;
                Ok(looked.map_err(|_| LookError::Slow)??.map(object))
            }
            Self::Tasks(engine) => Ok(id.parse().ok().and_then(|id| engine.task(id)).map(|view| task(&view))),
        }
    }

    /// Some of the objects, those after an id; none at the end.
    async fn page(&self, after: &str) -> Result<Vec<(String, Sighting)>, LookError> {
        match self {
            Self::Objects(inventory, collection) => {
                let looked = timeout(LOOK, inventory.page(*collection, after, PAGE_ROWS)).await;
                let page = looked.map_err(|_| LookError::Slow)??;
                Ok(page.into_iter().map(|one| (one.id().to_owned(), object(one))).collect())
            }
            Self::Tasks(engine) if after.is_empty() => {
                Ok(engine.tasks().iter().map(|view| (view.id().to_string(), task(view))).collect())
            }
            Self::Tasks(_) => Ok(Vec::new()),
        }
    }
}

fn object(Placed { object, place }: Placed) -> Sighting {
    Sighting { object, place }
}

fn task(view: &TaskView) -> Sighting {
    Sighting { object: view.to_json(), place: view.object_id().map(Place::about).unwrap_or_default() }
}

/// Hears of changes.
enum Ear {
    Objects(Receiver<ObjectChange>, Collection),
    Tasks(Receiver<TaskChange>, EngineHandle),
}

/// What has changed, as far as is known.
#[derive(Debug, PartialEq)]
enum Heard {
    /// Perhaps this one.
    One(String),
    /// Perhaps any.
    Any,
    /// None of this kind.
    Other,
}

impl Ear {
    /// Waits for a change. `None`: there will be no more. Cancel safe.
    async fn wait(&mut self) -> Option<Heard> {
        let heard = match self {
            Self::Objects(changes, collection) => {
                changes.recv().await.map(|one| of_object(*collection, &one))
            }
            Self::Tasks(changes, engine) => changes.recv().await.map(|one| of_task(engine, one)),
        };
        match heard {
            Ok(heard) => Some(heard),
            Err(RecvError::Lagged(_)) => Some(Heard::Any),
            Err(RecvError::Closed) => None,
        }
    }

    /// A change that has happened already.
    fn more(&mut self) -> Option<Heard> {
        let heard = match self {
            Self::Objects(changes, collection) => changes.try_recv().map(|one| of_object(*collection, &one)),
            Self::Tasks(changes, engine) => changes.try_recv().map(|one| of_task(engine, one)),
        };
        match heard {
            Ok(heard) => Some(heard),
            Err(TryRecvError::Lagged(_)) => Some(Heard::Any),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

fn of_object(collection: Collection, change: &ObjectChange) -> Heard {
    match change {
        ObjectChange::Many => Heard::Any,
        change => collection.concerned(change).map_or(Heard::Other, Heard::One),
    }
}

fn of_task(engine: &EngineHandle, change: TaskChange) -> Heard {
    match change {
        TaskChange::Removed(id) => Heard::One(id.to_string()),
        TaskChange::Updated(id) => Heard::One(whole_task(engine, id).to_string()),
    }
}

/// The task that a task is a part of: parts are shown in it and not by themselves.
fn whole_task(engine: &EngineHandle, mut id: JobId) -> JobId {
    // Records that name each other as parents must not turn this into a circle.
    for _ in 0..16 {
        let parent = engine.task(id).and_then(|view| view.record.parent);
        match parent.filter(|parent| engine.task(*parent).is_some()) {
            Some(parent) => id = parent,
            None => break,
        }
    }
    id
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Agenda {
    order: Vec<String>,
    named: HashSet<String>,
    everything: bool,
}

impl Agenda {
    fn add(&mut self, heard: Heard) {
        match heard {
            Heard::Other => {}
            Heard::One(_) if self.everything => {}
            Heard::One(id) if self.order.len() < ONE_BY_ONE => {
                if self.named.insert(id.clone()) {
                    self.order.push(id);
                }
            }
            Heard::One(_) | Heard::Any => *self = Self { everything: true, ..Self::default() },
        }
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty() && !self.everything
    }
}

/// Tells the news of one kind.
pub struct Follower<'a> {
    source: Source,
    registry: &'a Registry,
    kind: super::Kind,
    known: Known,
    agenda: Agenda,
    ear: Ear,
}

impl<'a> Follower<'a> {
    /// Listens from now on, and knows nothing yet.
    pub fn new(source: Source, registry: &'a Registry, kind: super::Kind) -> Self {
        let ear = source.listen();
        Self { source, registry, kind, known: Known::default(), agenda: Agenda::default(), ear }
    }

    /// Looks at all that is there, so that from then on only news is told. Goes on until it succeeds.
    pub async fn begin(&mut self) {
        while let Err(error) = self.look_at_all(false).await {
            tracing::warn!(kind = self.kind.name(), %error, "objects could not be looked through");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits for changes and tells of them. Answers whether there may be more.
    pub async fn step(&mut self) -> bool {
        let patience = if self.agenda.is_empty() { IDLE } else { AGAIN };
        match timeout(patience, self.ear.wait()).await {
            Ok(Some(heard)) => self.agenda.add(heard),
            Ok(None) => return false,
            Err(_) => {}
        }
        // What has happened meanwhile comes along: an object that changes all the time is looked at once.
        for _ in 0..ONE_BY_ONE {
            let Some(heard) = self.ear.more() else { break };
            self.agenda.add(heard);
        }
        let agenda = std::mem::take(&mut self.agenda);
        if agenda.everything {
            if let Err(error) = self.look_at_all(true).await {
                self.failed(Heard::Any, &error);
            }
            return true;
        }
        for id in agenda.order {
            match self.source.one(&id).await {
                Ok(now) => self.look(&id, now, true),
                Err(error) => self.failed(Heard::One(id), &error),
            }
        }
        true
    }

    fn failed(&mut self, what: Heard, error: &LookError) {
        tracing::warn!(kind = self.kind.name(), ?what, %error, "a change could not be looked at: again soon");
        self.agenda.add(what);
    }

    fn look(&mut self, id: &str, now: Option<Sighting>, tell: bool) {
        let change = self.known.look(id, now);
        if let Some(change) = change.filter(|_| tell) {
            self.registry.tell(self.kind, &change);
        }
    }

    async fn look_at_all(&mut self, tell: bool) -> Result<(), LookError> {
        let (mut there, mut after) = (BTreeSet::new(), String::new());
        loop {
            let page = self.source.page(&after).await?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            for (id, now) in page {
                self.look(&id, Some(now), tell);
                there.insert(id);
            }
        }
        for gone in self.known.missing(&there) {
            self.look(&gone, None, tell);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_actors::{Engine, EngineConfig, JobEnd, MemoryJournal, NewJob, TaskProperties};
    use serde_json::Value;

    use super::super::Kind;
    use super::super::frame::Fields;
    use super::super::registry::{Form, Limits};
    use super::super::test_support::{principal, seat};
    use super::*;
    use crate::ids::UserId;

    #[test]
    fn an_agenda_names_each_object_once_in_the_order_in_which_they_changed() {
        let mut agenda = Agenda::default();
        for id in ["b", "a", "b"] {
            agenda.add(Heard::One(id.into()));
        }
        agenda.add(Heard::Other);
        assert_eq!(
            (agenda.order.as_slice(), agenda.everything),
            (&["b".to_owned(), "a".to_owned()][..], false)
        );
    }

    #[test]
    fn an_agenda_of_too_many_objects_is_everything_and_holds_no_names() {
        let mut agenda = Agenda::default();
        for id in 0..=ONE_BY_ONE {
            agenda.add(Heard::One(id.to_string()));
        }
        assert!(agenda.everything && agenda.order.is_empty() && agenda.named.is_empty());
        agenda.add(Heard::One("x".into()));
        assert!(agenda.order.is_empty());
    }
    #[tokio::test]
    async fn a_follower_that_missed_changes_tells_every_beginning_and_end_all_the_same() {
        let config = EngineConfig { change_backlog: 2, ..EngineConfig::default() };
        let engine = Engine::start(config, Arc::new(MemoryJournal::new())).unwrap();
        let registry = Registry::new(Limits::default());
        let stream = seat(&registry, principal(UserId::random(), None)).await.unwrap();
        let fields = Fields::named(&["id".into(), "status".into()]);
        assert!(registry.subscribe(stream.id, stream.user, Kind::Task, Form::Events(Arc::new(fields))));
        let handle = engine.handle();
        let run = |name: &str| {
            let properties =
                TaskProperties { name: name.into(), task_type: "test".into(), ..Default::default() };
            handle.submit(NewJob::new("test", properties), |_| async { JobEnd::Success(Value::Null) })
        };
        let before = run("before").await.unwrap().id();
        handle.wait_end(before).await;
        let mut follower = Follower::new(Source::Tasks(handle.clone()), &registry, Kind::Task);
        follower.begin().await;
        let mut ids = Vec::new();
        for _ in 0..20 {
            let id = run("x").await.unwrap().id();
            handle.wait_end(id).await;
            ids.push(id.to_string());
        }
        assert!(follower.step().await);
        let (told, _) = stream.take();
        for id in &ids {
            let ended = format!("\"id\":\"{id}\",\"status\":\"success\"");
            assert_eq!(told.matches(&ended).count(), 1, "{id} in {told}");
        }
        assert!(!told.contains(&before.to_string()), "what was there before is no news");
        handle.forget_ended().await.unwrap();
        assert!(follower.step().await);
        let (told, _) = stream.take();
        assert_eq!(told.matches("event: remove").count(), 21, "{told}");
        engine.stop().await;
    }
}
