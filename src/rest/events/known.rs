//! What the subscribers of a kind have been told so far. News is what differs from it, so nothing is lost and
//! nothing said twice, however many changes a listener missed.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use crate::inventory::Place;

/// What is kept of objects as they were, in bytes of JSON. Beyond it only ids are kept: additions and removals
/// stay exact, but an update is told even if it changes none of the members that somebody asked for.
const REMEMBERED_BYTES: u64 = 64 << 20;

/// An object as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Its JSON.
    pub object: Value,
    /// What decides, besides its id, whether a limited token sees it: where it lies, or what a task is about.
    pub place: Place,
}

/// A difference between what was known and what is.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The object's id.
    pub id: String,
    /// As [`Sighting::place`]; of a removed object, what it was last.
    pub place: Place,
    /// What happened.
    pub news: News,
}

/// What happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// It is new.
    Added(Value),
    /// It is different.
    Updated {
        /// As it was, if that is still known.
        before: Option<Value>,
        /// As it is.
        now: Value,
    },
    /// It is gone. As it was, if that is still known.
    Removed(Option<Value>),
}

/// All objects of a kind, as they were last told.
#[derive(Debug, Default)]
pub struct Known {
    objects: HashMap<String, Entry>,
    remembered_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    text: Option<Box<str>>,
}

impl Known {
    /// Takes in what an object is now, `None` for one that is not there, and answers what is new about it.
    pub fn look(&mut self, id: &str, now: Option<Sighting>) -> Option<Change> {
        let old = self.objects.remove(id);
        if let Some(text) = old.as_ref().and_then(|old| old.text.as_ref()) {
            self.remembered_bytes = self.remembered_bytes.saturating_sub(text.len() as u64);
        }
        let before = |old: &Entry| old.text.as_ref().and_then(|text| serde_json::from_str(text).ok());
        let Some(Sighting { object, place }) = now else {
            let old = old?;
            let news = News::Removed(before(&old));
            return Some(Change { id: id.to_owned(), place: old.place, news });
        };
        let text = object.to_string().into_boxed_str();
        let same = old.as_ref().is_some_and(|old| old.text.as_ref() == Some(&text));
        let room = REMEMBERED_BYTES.saturating_sub(self.remembered_bytes) >= text.len() as u64;
        self.remembered_bytes =
            self.remembered_bytes.saturating_add(if room { text.len() as u64 } else { 0 });
        self.objects.insert(id.to_owned(), Entry { place: place.clone(), text: Some(text).filter(|_| room) });
        let news = match old {
            Some(_) if same => return None,
            Some(old) => News::Updated { before: before(&old), now: object },
            None => News::Added(object),
        };
        Some(Change { id: id.to_owned(), place, news })
    }

    /// The ids of what is known and not in `there`.
    pub fn missing(&self, there: &BTreeSet<String>) -> Vec<String> {
        self.objects.keys().filter(|id| !there.contains(*id)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sighting(object: Value) -> Option<Sighting> {
        Some(Sighting { object, place: Place::in_sr("sr") })
    }

    #[test]
    fn an_object_is_added_once_updated_when_it_differs_and_removed_once() {
        let mut known = Known::default();
        let (one, two) = (json!({"id": "a", "n": 1}), json!({"id": "a", "n": 2}));
        let news = |change: Option<Change>| change.map(|change| change.news);
        assert_eq!(news(known.look("a", sighting(one.clone()))), Some(News::Added(one.clone())));
        assert_eq!(known.look("a", sighting(one.clone())), None);
        let updated = News::Updated { before: Some(one), now: two.clone() };
        assert_eq!(news(known.look("a", sighting(two.clone()))), Some(updated));
        let gone = known.look("a", None).unwrap();
        assert_eq!((gone.place, gone.news), (Place::in_sr("sr"), News::Removed(Some(two))));
        assert_eq!(known.look("a", None), None);
        assert_eq!(known.remembered_bytes, 0);
    }

    #[test]
    fn what_is_beyond_the_memory_is_still_known_by_its_id() {
        let mut known = Known { remembered_bytes: REMEMBERED_BYTES, ..Known::default() };
        let object = json!({"id": "a"});
        assert!(matches!(known.look("a", sighting(object.clone())).unwrap().news, News::Added(_)));
        let again = known.look("a", sighting(object.clone())).unwrap().news;
        assert_eq!(again, News::Updated { before: None, now: object });
        assert_eq!(known.look("a", None).unwrap().news, News::Removed(None));
        assert_eq!(known.remembered_bytes, REMEMBERED_BYTES);
    }

    #[test]
    fn what_was_known_and_is_not_there_is_missing() {
        let mut known = Known::default();
        for id in ["a", "b"] {
            known.look(id, sighting(json!({ "id": id })));
        }
        assert_eq!(known.missing(&BTreeSet::from(["a".to_owned(), "c".to_owned()])), ["b"]);
    }
}
