//! Frames of server-sent events, and which members of an object are in them.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::collections::picked;
use super::known::{Change, News};

/// Which members of an object a subscriber gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fields {
    /// All.
    All,
    /// Those of these names that exist; a name may be a path.
    Some(Vec<Vec<String>>),
}

impl Fields {
    /// These names.
    pub fn named(names: &[String]) -> Self {
        Self::Some(names.iter().map(|name| name.split('.').map(str::to_owned).collect()).collect())
    }

    fn of(&self, object: &Value) -> Map<String, Value> {
        match (self, object) {
            (Self::All, Value::Object(members)) => members.clone(),
            (Self::All, _) => Map::new(),
            (Self::Some(names), object) => picked(object, names),
        }
    }
}

/// One event as it is on the wire.
pub fn frame(event: &str, data: &Value) -> Bytes {
    // JSON has no line breaks of its own, so one line of data is enough.
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}

/// The first event of a stream.
pub fn init(connection: &str) -> Bytes {
    frame("init", &json!({ "id": connection }))
}

/// The event that says that the stream is alive.
pub fn ping() -> Bytes {
    frame("ping", &json!({ "ping": crate::state::now_ms() }))
}

/// What a subscriber with these fields is told of a change; `None` when it is no news for it.
pub fn of_change(kind: &str, change: &Change, fields: &Fields) -> Option<Bytes> {
    let (event, mut members) = match &change.news {
        News::Added(now) => ("add", fields.of(now)),
        News::Updated { before, now } => {
            let members = fields.of(now);
            if *fields != Fields::All && before.as_ref().is_some_and(|before| fields.of(before) == members) {
                return None;
            }
            ("update", members)
        }
        News::Removed(last) => {
            let mut members = last.as_ref().map(|last| fields.of(last)).unwrap_or_default();
            // Without it nobody could tell what has gone.
            members.insert("id".into(), change.id.clone().into());
            ("remove", members)
        }
    };
    members.insert("$subscription".into(), kind.into());
    Some(frame(event, &Value::Object(members)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Place;

    fn updated(before: Value, now: Value) -> Change {
        Change { id: "x".into(), place: Place::default(), news: News::Updated { before: Some(before), now } }
    }

    fn text(change: &Change, fields: &Fields) -> Option<String> {
        of_change("VDI", change, fields).map(|frame| String::from_utf8(frame.to_vec()).unwrap())
    }

    #[test]
    fn an_update_that_changes_no_chosen_member_is_no_news() {
        let change =
            updated(json!({"id": "x", "a": 1, "b": {"c": 1}}), json!({"id": "x", "a": 2, "b": {"c": 1}}));
        let named = |name: &str| Fields::named(&["id".into(), name.into()]);
        assert_eq!(text(&change, &named("b")), None);
        assert_eq!(text(&change, &named("b.c")), None);
        assert_eq!(
            text(&change, &named("a")).unwrap(),
            "event: update\ndata: {\"$subscription\":\"VDI\",\"a\":2,\"id\":\"x\"}\n\n"
        );
        assert!(text(&change, &Fields::All).is_some());
        assert_eq!(text(&change, &named("unknown")), None);
    }

    #[test]
    fn a_removal_names_what_has_gone_whatever_was_chosen() {
        let gone = |last| Change { id: "x".into(), place: Place::default(), news: News::Removed(last) };
        let fields = Fields::named(&["a".into()]);
        assert_eq!(
            text(&gone(Some(json!({"id": "x", "a": 1}))), &fields).unwrap(),
            "event: remove\ndata: {\"$subscription\":\"VDI\",\"a\":1,\"id\":\"x\"}\n\n"
        );
        assert!(text(&gone(None), &fields).unwrap().contains("\"id\":\"x\""));
    }

    #[test]
    fn text_with_line_breaks_stays_one_line_of_data() {
        let change = Change {
            id: "x".into(),
            place: Place::default(),
            news: News::Added(json!({"name": "a\nb\r\n\nevent: ping"})),
        };
        assert_eq!(text(&change, &Fields::All).unwrap().lines().count(), 3);
    }
}
