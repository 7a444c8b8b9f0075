//! The streams that are open: whose they are, what each is subscribed to, and how much may wait in them.
//!
//! Plain: it knows neither HTTP nor where changes come from.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::auth::Principal;
use crate::ids::UserId;
use crate::inventory::Place;

use super::frame::{self, Fields};
use super::kind::Kind;
use super::known::Change;
use super::outlet::Outlet;
use super::standing::Standing;

/// How long a stream that was ended may take to leave before its connection is cut.
pub const LEAVE: Duration = Duration::from_secs(1);

/// What the streams may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that may wait in one stream. One that does not take its events is dropped then.
    pub stream_bytes: u64,
    /// Bytes that may wait in all of them. The fullest are dropped then.
    pub all_bytes: u64,
    /// Streams at the same time.
    pub streams: usize,
    /// Streams of one user at the same time.
    pub user_streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stream_bytes: 20 << 20, all_bytes: 256 << 20, streams: 1024, user_streams: 256 }
    }
}

/// A stream that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// So many are open already.
    All(usize),
    /// The user has so many open already.
    OfUser(usize),
    /// The server is stopping.
    Closing,
}

/// Turns a change into a line of a stream; `None` for one that is no news for it.
pub type Liner = Arc<dyn Fn(&Change) -> Option<Bytes> + Send + Sync>;

/// In which form a stream is told of changes.
#[derive(Clone)]
pub enum Form {
    /// As server-sent events with these members.
    Events(Arc<Fields>),
    /// As lines.
    Lines(Liner),
}

/// Ends a stream's connection whatever is still on its way, because its client does not read.
pub type Cut = Box<dyn Fn() + Send + Sync>;

struct Stream {
    principal: Principal,
    standing: Standing,
    outlet: Arc<Outlet>,
    cut: Cut,
    ended: Option<Instant>,
    subscriptions: Vec<(Kind, Form)>,
}

impl Stream {
    fn sees(&self, change: &Change) -> bool {
        let Place { owner, srs } = &change.place;
        self.principal.sees_part(&change.id, owner.as_deref(), srs)
    }

    fn form(&self, kind: Kind) -> Option<&Form> {
        self.subscriptions.iter().find(|(have, _)| *have == kind).map(|(_, form)| form)
    }

    /// It takes nothing more, and is over when what waits is sent.
    fn end(&mut self) {
        self.outlet.finish();
        self.ended.get_or_insert_with(Instant::now);
    }

    /// Its client does not take what it is told.
    fn drop_slow(&mut self) {
        tracing::info!(user = %self.principal.user, "a stream whose client does not read is dropped");
        self.outlet.discard();
        self.ended.get_or_insert_with(Instant::now);
        (self.cut)();
    }
}

/// All streams of a server.
pub struct Registry {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    streams: HashMap<Uuid, Stream>,
    closing: bool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("streams", &self.table().streams.len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// No streams yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, table: Mutex::default() }
    }

    /// Opens a stream. It is there until [`Self::leave`] is called.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(
        &self,
        principal: Principal,
        standing: Standing,
        cut: Cut,
    ) -> Result<(Uuid, Arc<Outlet>), Refused> {
        let mut table = self.table();
        if table.closing {
            return Err(Refused::Closing);
        }
        if table.streams.len() >= self.limits.streams {
            return Err(Refused::All(self.limits.streams));
        }
        let of_user = table.streams.values().filter(|stream| stream.principal.user == principal.user).count();
        if of_user >= self.limits.user_streams {
            return Err(Refused::OfUser(self.limits.user_streams));
        }
        let (id, outlet) = (Uuid::new_v4(), Arc::<Outlet>::default());
        let stream = Stream {
            principal,
            standing,
            outlet: Arc::clone(&outlet),
            cut,
            ended: None,
            subscriptions: Vec::new(),
        };
        table.streams.insert(id, stream);
        Ok((id, outlet))
    }

    /// The answer of a stream is over.
    pub fn leave(&self, id: Uuid) {
        let gone = self.table().streams.remove(&id);
        // After the lock: what a stream holds may be large.
        drop(gone);
    }

    /// Whether the user has a stream of that id.
    pub fn is_of(&self, id: Uuid, user: UserId) -> bool {
        self.table().of_user(id, user).is_some()
    }

    /// Tells a user's stream of a kind from now on, in place of what it was told of that kind before. Answers
    /// whether there is such a stream.
    pub fn subscribe(&self, id: Uuid, user: UserId, kind: Kind, form: Form) -> bool {
        let mut table = self.table();
        let Some(stream) = table.of_user(id, user) else { return false };
        stream.subscriptions.retain(|(have, _)| *have != kind);
        stream.subscriptions.push((kind, form));
        true
    }

    /// Tells a user's stream no more of a kind. Answers whether there is such a stream.
    pub fn unsubscribe(&self, id: Uuid, user: UserId, kind: Kind) -> bool {
        let mut table = self.table();
        let Some(stream) = table.of_user(id, user) else { return false };
        stream.subscriptions.retain(|(have, _)| *have != kind);
        true
    }

    /// Whether anybody is subscribed to a kind.
    pub fn is_wanted(&self, kind: Kind) -> bool {
        self.table().streams.values().any(|stream| stream.ended.is_none() && stream.form(kind).is_some())
    }

    /// Tells all who are subscribed and may see it.
    pub fn tell(&self, kind: Kind, change: &Change) {
        let listeners: Vec<(Uuid, Form)> = {
            let table = self.table();
            let open = table.streams.iter().filter(|(_, stream)| stream.ended.is_none());
            let seeing = open.filter(|(_, stream)| stream.sees(change));
            seeing.filter_map(|(id, stream)| Some((*id, stream.form(kind)?.clone()))).collect()
        };
        // Without the lock, because objects may be large; those who chose the same members share one frame.
        let mut frames: Vec<(Arc<Fields>, Option<Bytes>)> = Vec::new();
        let mut told = Vec::with_capacity(listeners.len());
        for (id, form) in listeners {
            let frame = match form {
                Form::Lines(line) => line(change),
                Form::Events(fields) => match frames.iter().find(|(have, _)| *have == fields) {
                    Some((_, frame)) => frame.clone(),
                    None => {
                        let frame = frame::of_change(kind.name(), change, &fields);
                        frames.push((fields, frame.clone()));
                        frame
                    }
                },
            };
            told.extend(frame.map(|frame| (id, frame)));
        }
        let mut table = self.table();
        for (id, frame) in told {
            let Some(stream) = table.streams.get_mut(&id) else { continue };
            // It may have unsubscribed meanwhile.
            if stream.form(kind).is_some() && !stream.outlet.push(frame, self.limits.stream_bytes) {
                stream.drop_slow();
            }
        }
        self.keep_within(&mut table);
    }

    /// Drops the fullest streams while too much waits in all of them.
    fn keep_within(&self, table: &mut Table) {
        loop {
            let waiting = |stream: &Stream| stream.outlet.waiting_bytes();
            let all = table.streams.values().map(waiting).fold(0, u64::saturating_add);
            if all <= self.limits.all_bytes {
                return;
            }
            let Some(fullest) = table.streams.values_mut().max_by_key(|stream| waiting(stream)) else {
                return;
            };
            fullest.drop_slow();
        }
    }

    /// The credentials of all streams that are told something.
    pub fn standings(&self) -> Vec<(Uuid, Standing)> {
        let table = self.table();
        let open = table.streams.iter().filter(|(_, stream)| stream.ended.is_none());
        open.map(|(id, stream)| (*id, stream.standing.clone())).collect()
    }

    /// Ends a stream whose client may not read it any more.
    pub fn revoke(&self, id: Uuid) {
        if let Some(stream) = self.table().streams.get_mut(&id) {
            stream.outlet.discard();
            stream.ended.get_or_insert_with(Instant::now);
        }
    }

    /// Ends all streams that are subscribed to a kind, because nobody tells of it any more. Answers how many.
    pub fn end_kind(&self, kind: Kind) -> usize {
        let mut table = self.table();
        let subscribed = table.streams.values_mut().filter(|stream| stream.form(kind).is_some());
        subscribed.map(|stream| stream.end()).count()
    }

    /// Ends all streams, after what waits in them, and opens no more.
    pub fn close(&self) {
        let mut table = self.table();
        table.closing = true;
        table.streams.values_mut().for_each(Stream::end);
    }

    /// Cuts the connections of streams that were ended a while ago and have not left: their clients do not read.
    pub fn cut_overdue(&self) {
        for stream in self.table().streams.values_mut() {
            if stream.ended.is_some_and(|since| since.elapsed() >= LEAVE) {
                stream.outlet.discard();
                (stream.cut)();
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change under the lock leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of_user(&mut self, id: Uuid, user: UserId) -> Option<&mut Stream> {
        self.streams.get_mut(&id).filter(|stream| stream.ended.is_none() && stream.principal.user == user)
    }
}

#[cfg(test)]
mod tests;
