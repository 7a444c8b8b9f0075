//! `GET /tasks?ndjson=true&watch=true`: an endless list of what happens to tasks, one line each.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::Method;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde_json::{Value, json};

use super::App;
use super::caller::Caller;
use super::collections::Listing;
use super::connection::Connection;
use super::error::ApiError;
use super::events::{Change, Form, HEARTBEAT, Heartbeat, Kind, Liner, News, NoBody};

/// Keeps a quiet watch alive. A line that begins with spaces is still JSON; an empty line, for many clients, is
/// not.
fn space() -> Bytes {
    Bytes::from_static(b" ")
}

/// Answers with what happens to tasks from now on, all or those of one object.
///
/// # Errors
/// 503 when there are too many such streams.
pub async fn stream(
    app: &App,
    caller: &Caller,
    request: &HttpRequest,
    listing: Listing,
    object: Option<String>,
) -> Result<HttpResponse, ApiError> {
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, "application/x-ndjson"));
    if request.method() == Method::HEAD {
        return Ok(response.body(NoBody));
    }
    let connection = request.conn_data::<Arc<Connection>>().map(Arc::downgrade);
    let opened = app.events.open(caller.principal(), connection).await?;
    let lines = Form::Lines(liner(listing, object));
    app.events.subscribe(opened.id, caller.user(), Kind::Task, lines).await?;
    Ok(response.body(opened.into_body(Heartbeat { every: HEARTBEAT, frame: space })))
}

/// Makes lines of changes. What was never shown, because the filter does not keep it, is not said to be gone
/// either.
fn liner(listing: Listing, object: Option<String>) -> Liner {
    let shown: Mutex<HashSet<String>> = Mutex::default();
    Arc::new(move |change: &Change| {
        if object.is_some() && change.place.owner != object {
            return None;
        }
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let href = format!("/rest/v0/tasks/{}", change.id);
        let event = match &change.news {
            News::Added(now) | News::Updated { now, .. } => {
                let element = listing.shown(now.clone(), &href)?;
                shown.insert(change.id.clone());
                json!(["update", element])
            }
            News::Removed(last) => {
                let kept = last.as_ref().is_some_and(|last| listing.keeps(last));
                if !shown.remove(&change.id) && !kept {
                    return None;
                }
                let element = listing.element(json!({ "id": change.id }), &href);
                json!(["remove", with_id(element, &change.id)])
            }
        };
        Some(Bytes::from(format!("{event}\n")))
    })
}

/// Names what has gone whichever members were chosen; a link says it by itself.
fn with_id(mut element: Value, id: &str) -> Value {
    if let Some(members) = element.as_object_mut() {
        members.insert("id".into(), id.into());
    }
    element
}

#[cfg(test)]
mod tests {
    use super::super::query::Query;
    use super::*;
    use crate::inventory::Place;

    async fn line(query: &str, object: Option<&str>, news: News) -> Option<String> {
        let listing = Listing::of(&Query::parse(query).unwrap()).await.unwrap();
        let change = Change { id: "0t".into(), place: Place::about("vdi"), news };
        let line = liner(listing, object.map(str::to_owned))(&change);
        line.map(|line| String::from_utf8(line.to_vec()).unwrap())
    }

    #[actix_web::test]
    async fn lines_are_mapped_as_elements_of_the_collection_are() {
        let task = || json!({"id": "0t", "status": "pending", "properties": {"progress": 5, "name": "x"}});
        let updated = || News::Updated { before: None, now: task() };
        let gone = || News::Removed(Some(task()));
        let link = "\"/rest/v0/tasks/0t\"";
        assert_eq!(line("", None, updated()).await.unwrap(), format!("[\"update\",{link}]\n"));
        assert_eq!(line("", None, gone()).await.unwrap(), format!("[\"remove\",{link}]\n"));
        assert_eq!(
            line("fields=status,properties.progress", None, News::Added(task())).await.unwrap(),
            format!(
                "[\"update\",{{\"href\":{link},\"properties\":{{\"progress\":5}},\"status\":\"pending\"}}]\n"
            )
        );
        for fields in ["fields=*", "fields=status"] {
            assert_eq!(
                line(fields, None, gone()).await.unwrap(),
                format!("[\"remove\",{{\"href\":{link},\"id\":\"0t\"}}]\n")
            );
        }
    }

    #[actix_web::test]
    async fn a_watch_of_one_object_is_silent_about_the_others() {
        let added = || News::Added(json!({"id": "0t"}));
        assert!(line("", Some("vdi"), added()).await.is_some());
        assert!(line("", Some("other"), added()).await.is_none());
    }
}
