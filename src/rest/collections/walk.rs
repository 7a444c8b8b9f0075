//! Collections page by page: what is asked for next is read when the client has taken what came before.

use actix_web::HttpResponse;
use actix_web::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

use crate::auth::Principal;
use crate::inventory::{Collection, Inventory};

use super::super::JSON;
use super::super::error::ApiError;
use super::super::markdown::{NOTHING, Table};
use super::{Form, Listing, MARKDOWN, Pages, linked, push_line, sees};

/// Objects that are read from the database in one go.
const PAGE_ROWS: u32 = 200;

/// Answers a collection page by page: the first is read before the head is sent, so that trouble is a status.
pub(super) async fn stream_elements(
    mut walk: impl Pages + 'static,
    form: Form,
) -> Result<HttpResponse, ApiError> {
    let first = walk.next().await?;
    let kind = if form == Form::Lines { "application/x-ndjson" } else { JSON };
    let state = (walk, first, form, Progress::Begun);
    let pages = stream::try_unfold(state, |(mut walk, mut page, form, progress)| async move {
        let separator: &[u8] = if form == Form::Lines { b"" } else { b"," };
        let mut body = Vec::new();
        let mut written = match progress {
            Progress::Ended => return Ok::<_, ApiError>(None),
            Progress::Begun => {
                if form == Form::Array {
                    body.extend_from_slice(b"[\n");
                }
                false
            }
            Progress::Written => true,
        };
        let next = match page.take() {
            Some(elements) => {
                for element in &elements {
                    if written {
                        body.extend_from_slice(separator);
                        if form == Form::Array {
                            body.push(b'\n');
                        }
                    }
                    if form == Form::Lines {
                        push_line(&mut body, element);
                    } else {
                        drop(serde_json::to_writer(&mut body, element));
                    }
                    written = true;
                }
                walk.next().await?
            }
            None => None,
        };
        let progress = match &next {
            Some(_) if written => Progress::Written,
            Some(_) => Progress::Begun,
            None => {
                if form == Form::Array {
                    body.extend_from_slice(if written { b"\n]\n" } else { b"]\n" });
                }
                Progress::Ended
            }
        };
        Ok(Some((Bytes::from(body), (walk, next, form, progress))))
    });
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).streaming(pages))
}

/// Answers a collection as a table, page by page. Its columns are those of all elements: they are looked through twice,
/// since to keep them would take as much memory as there are objects.
pub(super) async fn stream_table(
    mut walk: impl Pages + 'static,
    has_columns: bool,
) -> Result<HttpResponse, ApiError> {
    let mut table = Table::default();
    if has_columns {
        let mut columns = walk.clone();
        while let Some(page) = columns.next().await? {
            page.iter().for_each(|element| table.note(element));
        }
    }
    let first = walk.next().await?;
    let head = if first.is_some() { table.head() } else { NOTHING.into() };
    let state = (walk, first, table, Some(head));
    let pages = stream::try_unfold(state, |(mut walk, page, table, head)| async move {
        if page.is_none() && head.is_none() {
            return Ok::<_, ApiError>(None);
        }
        let mut text = head.unwrap_or_default();
        page.iter().flatten().for_each(|element| text.push_str(&table.row(element)));
        let next = if page.is_some() { walk.next().await? } else { None };
        Ok(Some((Bytes::from(text), (walk, next, table, None))))
    });
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, MARKDOWN)).streaming(pages))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Begun,
    Written,
    Ended,
}

/// A walk through a collection.
#[derive(Clone)]
pub(super) struct Walk {
    pub inventory: Inventory,
    pub principal: Principal,
    pub collection: Collection,
    pub listing: Listing,
    /// The id of the last object that was read.
    pub after: String,
    /// How many elements may still come.
    pub left: u64,
}

impl Pages for Walk {
    async fn next(&mut self) -> Result<Option<Vec<Value>>, ApiError> {
        while self.left > 0 {
            let page = self.inventory.page(self.collection, &self.after, PAGE_ROWS).await?;
            let Some(last) = page.last() else { return Ok(None) };
            self.after = last.id().to_owned();
            let seen = page.into_iter().filter(|placed| sees(&self.principal, placed));
            let linked = seen.map(|placed| linked(self.collection, placed));
            let elements = self.listing.shown_of(linked.collect(), self.left).await?;
            self.left = self.left.saturating_sub(elements.len() as u64);
            if !elements.is_empty() {
                return Ok(Some(elements));
            }
        }
        Ok(None)
    }
}
