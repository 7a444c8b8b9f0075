//! `xo.getAllObjects`: everything that there is to see, by id, in one answer.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::RpcError;
use super::pattern::Pattern;
use super::session::Session;
use crate::auth::Capability;
use crate::inventory::Collection;
use crate::inventory::filter::Filter;
use crate::rest::collections::sees;

/// The longest answer.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Bytes of all answers that wait for their clients, and how much is taken at once.
const ROOMS: usize = 2048;
const ROOM_BYTES: usize = 64 << 10;

/// Objects that are read in one go.
const PAGE_ROWS: u32 = 200;

/// The memory of all long answers. Clones share it.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Semaphore>);

impl Default for Rooms {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOMS)))
    }
}

/// A result as JSON, with the memory that it holds until its client has taken it.
#[derive(Debug)]
pub struct Reply {
    /// The result.
    pub json: String,
    /// What is given back with it.
    pub room: Option<OwnedSemaphorePermit>,
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self { json: value.to_string(), room: None }
    }
}

impl Reply {
    /// Adds to it, and takes the memory for that. The first [`ROOM_BYTES`] come with the connection.
    ///
    /// # Errors
    /// [`RpcError::TooLong`], [`RpcError::Busy`]; then nothing was added.
    pub fn push(&mut self, rooms: &Rooms, text: &str) -> Result<(), RpcError> {
        let bytes = self.json.len() + text.len();
        if bytes > MAX_ANSWER_BYTES {
            return Err(RpcError::TooLong { limit: MAX_ANSWER_BYTES });
        }
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = (bytes / ROOM_BYTES).saturating_sub(held);
        if more > 0 {
            let count = u32::try_from(more).unwrap_or(u32::MAX);
            let taken = Arc::clone(&rooms.0).try_acquire_many_owned(count).map_err(|_| RpcError::Busy)?;
            match &mut self.room {
                Some(room) => room.merge(taken),
                room @ None => *room = Some(taken),
            }
        }
        self.json.push_str(text);
        Ok(())
    }
}

/// Which objects are wanted.
#[derive(Debug, Clone)]
enum Selection {
    All,
    Pattern(Pattern),
    Filter(Filter),
}

impl Selection {
    async fn of(filter: Option<Value>) -> Result<Self, RpcError> {
        match filter {
            None => Ok(Self::All),
            Some(Value::String(text)) => {
                // Regular expressions are compiled, which takes its time.
                let parsing = tokio::task::spawn_blocking(move || text.parse::<Filter>());
                let parsed = parsing.await.map_err(|_| RpcError::Unknown("the filter was not read"))?;
                parsed.map(Self::Filter).map_err(|error| RpcError::parameter("filter", error.to_string()))
            }
            Some(pattern) => Pattern::of("filter", pattern).map(Self::Pattern),
        }
    }

    fn selects(&self, object: &Value) -> Result<bool, RpcError> {
        match self {
            Self::All => Ok(true),
            Self::Pattern(pattern) => Ok(pattern.matches(object)),
            Self::Filter(filter) => {
                filter.matches(object).map_err(|error| RpcError::parameter("filter", error.to_string()))
            }
        }
    }

    /// The first `most` that are wanted, each as a member of the answer.
    fn members(&self, objects: Vec<Value>, most: usize) -> Result<Vec<String>, RpcError> {
        let mut members = Vec::new();
        for object in objects {
            if members.len() >= most {
                break;
            }
            if let Some(id) = object.get("id").filter(|id| id.is_string())
                && self.selects(&object)?
            {
                members.push(format!("{id}:{object}"));
            }
        }
        Ok(members)
    }
}

/// `xo.getAllObjects`
///
/// # Errors
/// Who may not read; a filter that is none; more than [`MAX_ANSWER_BYTES`].
pub async fn all(session: &Session, mut params: Map<String, Value>) -> Result<Reply, RpcError> {
    let principal = session.require(Capability::Read)?.clone();
    if params.remove("ndjson").is_some_and(|flag| flag == true || flag == "true") {
        let message = "not over a WebSocket: GET /rest/v0/<collection>?fields=*&ndjson=true gives lines";
        return Err(RpcError::parameter("ndjson", message));
    }
    let mut left = limit(params.remove("limit"))?;
    let selection = Selection::of(params.remove("filter")).await?;
    let app = session.app();
    let mut map = Reply { json: "{".into(), room: None };
    for collection in Collection::ALL {
        let mut after = String::new();
        while left > 0 {
            if app.closing.is_cancelled() {
                return Err(RpcError::Stopping);
            }
            let page = app.inventory.page(collection, &after, PAGE_ROWS).await?;
            let Some(last) = page.last() else { break };
            after = last.id().to_owned();
            let seen = page.into_iter().filter(|placed| sees(&principal, placed)).map(|placed| placed.object);
            let (objects, selection): (Vec<Value>, _) = (seen.collect(), selection.clone());
            let selecting = tokio::task::spawn_blocking(move || selection.members(objects, left));
            let members =
                selecting.await.map_err(|_| RpcError::Unknown("the filter was not evaluated"))??;
            left -= members.len();
            for member in members {
                let comma = if map.json.len() > 1 { "," } else { "" };
                map.push(&app.rpc.rooms, &format!("{comma}{member}"))?;
            }
        }
    }
    map.push(&app.rpc.rooms, "}")?;
    Ok(map)
}

/// As the collections take it: a whole number, also as text.
fn limit(value: Option<Value>) -> Result<usize, RpcError> {
    let number = match &value {
        None => return Ok(usize::MAX),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        Some(_) => None,
    };
    let limit = number.ok_or_else(|| RpcError::parameter("limit", "a whole number from 0 on is needed"))?;
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_bounded_and_takes_room_as_it_grows() {
        let (rooms, mut reply) = (Rooms::default(), Reply { json: String::new(), room: None });
        let text = "x".repeat(ROOM_BYTES);
        reply.push(&rooms, "x").unwrap();
        assert_eq!(rooms.0.available_permits(), ROOMS);
        reply.push(&rooms, &text).unwrap();
        reply.push(&rooms, &text).unwrap();
        assert_eq!(rooms.0.available_permits(), ROOMS - 2);
        let refused = (0..).find_map(|_| reply.push(&rooms, &text).err()).unwrap();
        assert!(
            matches!(refused, RpcError::TooLong { .. }) && refused.to_string().contains("16 MiB"),
            "{refused}"
        );
        assert!(reply.json.len() <= MAX_ANSWER_BYTES);
        drop(reply);
        assert_eq!(rooms.0.available_permits(), ROOMS);
    }

    #[test]
    fn without_room_an_answer_is_refused() {
        let (rooms, mut reply) = (Rooms(Arc::new(Semaphore::new(1))), Reply::from(Value::Null));
        let refused = reply.push(&rooms, &"x".repeat(3 * ROOM_BYTES)).unwrap_err();
        assert_eq!((refused.code(), reply.json.as_str()), ("busy", "null"));
    }

    #[tokio::test]
    async fn a_filter_is_an_object_or_an_expression() {
        let objects =
            vec![json!({"id": "1", "type": "VM"}), json!({"id": "2", "type": "SR"}), json!({"type": "VM"})];
        for filter in [json!({"type": "VM"}), json!("type:VM")] {
            let selection = Selection::of(Some(filter)).await.unwrap();
            let members = selection.members(objects.clone(), 9).unwrap();
            assert_eq!(members, [r#""1":{"id":"1","type":"VM"}"#]);
        }
        assert_eq!(Selection::of(Some(json!("("))).await.unwrap_err().number(), 10);
        assert_eq!(Selection::All.members(objects, 1).unwrap().len(), 1);
    }

    #[test]
    fn a_limit_is_a_whole_number() {
        assert_eq!(limit(Some(json!(3))).unwrap(), 3);
        assert_eq!(limit(Some(json!("3"))).unwrap(), 3);
        assert_eq!(limit(None).unwrap(), usize::MAX);
        for bad in [json!(-1), json!(1.5), json!("x"), json!([])] {
            assert_eq!(limit(Some(bad)).unwrap_err().number(), 10);
        }
    }
}
