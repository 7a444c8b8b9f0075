//! Collections and single objects: `GET /rest/v0`, `GET /<collection>`, `GET /<collection>/<id>`.

mod walk;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::auth::{Capability, Principal};
use crate::inventory::filter::Filter;
use crate::inventory::{Collection, Placed};

use super::App;
use super::JSON;
use super::caller::Caller;
use super::error::ApiError;
use super::markdown::Table;
use super::query::Query;
use walk::{Walk, stream_elements, stream_table};

/// The type of tables.
const MARKDOWN: &str = "text/markdown; charset=utf-8";
/// Which members of an object are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fields {
    /// None: only the link.
    Link,
    /// All, with the link.
    All,
    /// These, with the link.
    Some(Vec<Vec<String>>),
}

/// How a collection is to be answered.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Nothing where every object belongs in the answer.
    selection: Option<Selection>,
    fields: Fields,
    limit: Option<u64>,
    form: Form,
}

/// Which objects belong in the answer.
#[derive(Debug, Clone)]
struct Selection {
    /// The expression, as it was given.
    text: String,
    filter: Filter,
}

impl Selection {
    /// Reads an expression; nothing where it is blank. One with regular expressions, which are compiled, is read on
    /// a thread that may be busy.
    ///
    /// # Errors
    /// 400 for an expression that is none.
    async fn of(text: &str) -> Result<Option<Self>, ApiError> {
        let parsed = if text.contains('/') {
            let text = text.to_owned();
            let parsing = tokio::task::spawn_blocking(move || text.parse::<Filter>());
            parsing.await.map_err(|_| ApiError::Unfinished("reading the filter"))?
        } else {
            text.parse()
        };
        let filter = parsed
            .map_err(|error| ApiError::BadFilter { filter: text.into(), message: error.to_string() })?;
        Ok((!filter.is_blank()).then(|| Self { text: text.into(), filter }))
    }

    /// # Errors
    /// 400 when the filter takes too much work on this object.
    fn selects(&self, object: &Value) -> Result<bool, ApiError> {
        self.filter
            .matches(object)
            .map_err(|error| ApiError::BadFilter { filter: self.text.clone(), message: error.to_string() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Array,
    Lines,
    Markdown,
}

impl Listing {
    /// Reads the parameters that all collections take.
    ///
    /// # Errors
    /// 422 for what cannot be taken, 400 for a filter that is none.
    pub async fn of(query: &Query) -> Result<Self, ApiError> {
        let mut listing = Self::unfiltered(query)?;
        listing.selection = Selection::of(query.text("filter")?.unwrap_or_default()).await?;
        Ok(listing)
    }

    /// All of it but the filter.
    fn unfiltered(query: &Query) -> Result<Self, ApiError> {
        let fields = match query.text("fields")? {
            None => Fields::Link,
            Some("*") => Fields::All,
            Some(list) => Fields::Some(
                list.split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| name.split('.').map(str::to_owned).collect())
                    .collect(),
            ),
        };
        let lines = query.flag("ndjson")?;
        let markdown = query.flag("markdown")?;
        let form = match (lines, markdown) {
            (true, true) => {
                return Err(ApiError::invalid(
                    "markdown",
                    "markdown and ndjson exclude each other",
                    Some(true.into()),
                ));
            }
            (true, false) => Form::Lines,
            (false, true) => Form::Markdown,
            (false, false) => Form::Array,
        };
        Ok(Self { selection: None, fields, limit: query.number("limit")?, form })
    }

    /// Whether a whole object belongs in what is shown, for answers that cannot be refused any more, such as a
    /// stream of changes: an object on which the filter takes too much work does not.
    pub fn keeps(&self, object: &Value) -> bool {
        let Some(selection) = &self.selection else { return true };
        selection.selects(object).unwrap_or_else(|error| {
            tracing::warn!(filter = selection.text, %error, "an object is left out of a stream of changes");
            false
        })
    }

    /// A whole object as it is shown, or nothing where the filter does not match it; as [`Self::keeps`], for
    /// answers that cannot be refused any more.
    pub fn shown(&self, object: Value, href: &str) -> Option<Value> {
        self.keeps(&object).then(|| self.element(object, href))
    }

    /// The first `most` of the whole objects that the filter matches, each with what came with it. It is evaluated
    /// on a thread that may be busy, and not to the end when nobody waits for it any more.
    ///
    /// # Errors
    /// 400 when the filter takes too much work on one of them.
    async fn matching<T: Send + 'static>(
        &self,
        mut objects: Vec<(Value, T)>,
        most: u64,
    ) -> Result<Vec<(Value, T)>, ApiError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let Some(selection) = self.selection.clone() else {
            objects.truncate(most);
            return Ok(objects);
        };
        let unwanted = CancellationToken::new();
        let _unwanted_when_dropped = unwanted.clone().drop_guard();
        let evaluated = tokio::task::spawn_blocking(move || {
            let mut kept = Vec::new();
            for (object, with) in objects {
                if kept.len() >= most || unwanted.is_cancelled() {
                    break;
                }
                if selection.selects(&object)? {
                    kept.push((object, with));
                }
            }
            Ok(kept)
        });
        evaluated.await.map_err(|_| ApiError::Unfinished("evaluating the filter"))?
    }

    /// The first `most` of whole objects that the filter matches, as they are shown.
    ///
    /// # Errors
    /// 400 when the filter takes too much work on one of them.
    pub async fn shown_of(&self, objects: Vec<(Value, String)>, most: u64) -> Result<Vec<Value>, ApiError> {
        let kept = self.matching(objects, most).await?;
        Ok(kept.into_iter().map(|(object, href)| self.element(object, &href)).collect())
    }

    /// How many are to be shown.
    pub fn limit(&self) -> u64 {
        self.limit.unwrap_or(u64::MAX)
    }

    /// The first of the whole objects that the filter matches, as many as are to be shown.
    ///
    /// # Errors
    /// 400 when the filter takes too much work on one of them.
    pub async fn select(&self, objects: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let objects = objects.into_iter().map(|object| (object, ())).collect();
        let kept = self.matching(objects, self.limit.unwrap_or(u64::MAX)).await?;
        Ok(kept.into_iter().map(|(object, ())| object).collect())
    }

    /// Answers with whole objects that are all known, each with its link.
    ///
    /// # Errors
    /// 400 when the filter takes too much work on one of them.
    pub async fn answer(&self, objects: Vec<(Value, String)>) -> Result<HttpResponse, ApiError> {
        let kept = self.matching(objects, self.limit.unwrap_or(u64::MAX)).await?;
        Ok(self.written(kept.into_iter().map(|(object, href)| self.element(object, &href)).collect()))
    }

    /// An object as an element of a collection.
    pub fn element(&self, object: Value, href: &str) -> Value {
        let mut members = match (&self.fields, object) {
            (Fields::Link, _) => return href.into(),
            (Fields::All, Value::Object(members)) => members,
            (Fields::Some(names), object) => picked(&object, names),
            (Fields::All, _) => Map::new(),
        };
        members.insert("href".into(), href.into());
        Value::Object(members)
    }

    fn written(&self, elements: Vec<Value>) -> HttpResponse {
        match self.form {
            Form::Array => HttpResponse::Ok().content_type(JSON).json(elements),
            Form::Lines => {
                let mut body = Vec::new();
                elements.iter().for_each(|element| push_line(&mut body, element));
                // A stream, because clients of this form expect one: no length.
                let once = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from(body))]);
                HttpResponse::Ok().insert_header((CONTENT_TYPE, "application/x-ndjson")).streaming(once)
            }
            Form::Markdown => {
                HttpResponse::Ok().insert_header((CONTENT_TYPE, MARKDOWN)).body(Table::of(&elements))
            }
        }
    }
}

fn push_line(body: &mut Vec<u8>, element: &Value) {
    // Writing a value into memory cannot fail.
    drop(serde_json::to_writer(&mut *body, element));
    body.push(b'\n');
}

/// The members of an object that exist under these names; a name may be a path.
pub fn picked(object: &Value, names: &[Vec<String>]) -> Map<String, Value> {
    let mut shown = Map::new();
    for path in names {
        let found = path.iter().try_fold(object, |value, name| value.get(name));
        let Some(value) = found else { continue };
        let Some((last, outer)) = path.split_last() else { continue };
        let mut target = Some(&mut shown);
        for name in outer {
            target = target.and_then(|map| {
                map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
            });
        }
        if let Some(target) = target {
            target.insert(last.clone(), value.clone());
        }
    }
    shown
}

/// `GET /rest/v0`: the collections.
///
/// # Errors
/// 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn root(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, "collection")?;
    let listing = Listing::of(&Query::of(&request)?).await?;
    let own = Collection::ALL.iter().map(|one| (one.name(), Some(one.kind())));
    let more = [("tasks", Some("task")), ("users", Some("user"))];
    let entries = own.chain(more).map(|(name, kind)| {
        let mut object = Map::new();
        object.insert("id".into(), name.into());
        if let Some(kind) = kind {
            object.insert("type".into(), kind.into());
        }
        (Value::Object(object), format!("/rest/v0/{name}"))
    });
    listing.answer(entries.collect()).await
}

/// `GET /<collection>`.
///
/// # Errors
/// 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn list(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    collection: Collection,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, collection.name())?;
    let listing = Listing::of(&Query::of(&request)?).await?;
    let walk = Walk {
        inventory: app.inventory.clone(),
        principal: caller.principal().clone(),
        collection,
        listing: listing.clone(),
        after: String::new(),
        left: listing.limit.unwrap_or(u64::MAX),
    };
    answer_pages(walk, &listing).await
}

/// A collection that is read page by page.
pub trait Pages: Clone {
    /// The next elements; `None` at the end, never an empty page.
    ///
    /// # Errors
    /// 400 when the filter takes too much work on one of them.
    async fn next(&mut self) -> Result<Option<Vec<Value>>, ApiError>;
}

/// Answers a collection in the form that was asked for.
///
/// # Errors
/// 400 for a filter that takes too much work.
pub async fn answer_pages(walk: impl Pages + 'static, listing: &Listing) -> Result<HttpResponse, ApiError> {
    match listing.form {
        Form::Markdown => stream_table(walk, listing.fields != Fields::Link).await,
        form => stream_elements(walk, form).await,
    }
}

/// An object with its link.
pub fn linked(collection: Collection, placed: Placed) -> (Value, String) {
    let href = format!("/rest/v0/{}/{}", collection.name(), placed.id());
    (placed.object, href)
}

/// Whether a token that is limited to some objects shows this one.
pub fn sees(principal: &Principal, placed: &Placed) -> bool {
    principal.sees_part(placed.id(), placed.place.owner.as_deref(), &placed.place.srs)
}

/// `GET /<collection>/<id>`.
///
/// # Errors
/// 404, also for an object of another type; 403 for one that the token does not see.
pub async fn one(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, Some(id), collection.name())?;
    let object = seen(&app, &caller, collection, id, "read").await?;
    Ok(HttpResponse::Ok().content_type(JSON).json(object))
}

/// `GET /<collection>/<id>/messages|alarms`: there are none, since nothing runs here that would send any.
///
/// # Errors
/// As [`one`]; 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn nothing_of(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, Some(id), collection.name())?;
    let listing = Listing::of(&Query::of(&request)?).await?;
    seen(&app, &caller, collection, id, "read").await?;
    listing.answer(Vec::new()).await
}

/// `GET /<collection>/<id>/actions` where nothing can be done; `_` stands for any object.
///
/// # Errors
/// As [`one`].
pub async fn no_actions(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, collection, id, collection.name()).await?;
    Ok(HttpResponse::Ok().content_type(JSON).json(Vec::<Value>::new()))
}

/// An object that the caller may read, or `_`, which stands for any object of the collection. `resource` is what a
/// refusal calls it.
///
/// # Errors
/// 403; 404 for an object that there is not.
pub async fn readable_or_any(
    app: &App,
    caller: &Caller,
    collection: Collection,
    id: &str,
    resource: &'static str,
) -> Result<(), ApiError> {
    caller.require(Capability::Read, Some(id), resource)?;
    if id != "_" {
        seen(app, caller, collection, id, "read").await?;
    }
    Ok(())
}

/// An object that must be in a collection and that the caller's token must see, who wants to do something to it.
///
/// # Errors
/// 404; 403 for one that the token does not see.
pub async fn seen(
    app: &App,
    caller: &Caller,
    collection: Collection,
    id: &str,
    action: &'static str,
) -> Result<Value, ApiError> {
    let placed = find(app, collection, id).await?;
    if sees(caller.principal(), &placed) {
        return Ok(placed.object);
    }
    Err(ApiError::Forbidden { object: Some(id.into()), action, resource: collection.kind() })
}

/// An object that must be in a collection.
///
/// # Errors
/// 404.
pub async fn existing(app: &App, collection: Collection, id: &str) -> Result<Value, ApiError> {
    find(app, collection, id).await.map(|placed| placed.object)
}

async fn find(app: &App, collection: Collection, id: &str) -> Result<Placed, ApiError> {
    let found = app.inventory.object(collection, id).await?;
    found.ok_or_else(|| ApiError::NoSuchObject { kind: collection.kind(), id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listing(query: &str) -> Listing {
        Listing::unfiltered(&Query::parse(query).unwrap()).unwrap()
    }

    #[test]
    fn elements_are_links_unless_members_are_asked_for() {
        let object = json!({"id": "x", "CPUs": {"number": 2, "max": 4}, "name_label": "a"});
        let shown = |query| listing(query).element(object.clone(), "/l");
        assert_eq!(shown(""), json!("/l"));
        assert_eq!(shown("fields="), json!({"href": "/l"}));
        assert_eq!(shown("fields=name_label,unknown"), json!({"name_label": "a", "href": "/l"}));
        assert_eq!(shown("fields=CPUs.number"), json!({"CPUs": {"number": 2}, "href": "/l"}));
        assert_eq!(
            shown("fields=CPUs.number,CPUs.max"),
            json!({"CPUs": {"number": 2, "max": 4}, "href": "/l"})
        );
        assert_eq!(shown("fields=*")["href"], "/l");
        assert_eq!(shown("fields=*")["id"], "x");
    }

    #[tokio::test]
    async fn a_change_is_shown_as_an_element_or_not_at_all() {
        let query = Query::parse("filter=status:pending&fields=id").unwrap();
        let listing = Listing::of(&query).await.unwrap();
        let shown = |status| listing.shown(json!({"id": "x", "status": status}), "/l");
        assert_eq!(shown("pending"), Some(json!({"id": "x", "href": "/l"})));
        assert_eq!(shown("success"), None);
        let hard = Query::parse("filter=/(a%2Ba%2B)%2B(?!z)y/").unwrap();
        let text = json!("a".repeat(60));
        let listing = Listing::of(&hard).await.unwrap();
        assert!(!listing.keeps(&text), "what takes too long is left out");
        assert!(listing.select(vec![text]).await.is_err(), "where it can be, it is refused");
    }
}
