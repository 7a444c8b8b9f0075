//! `GET /audit`: the records, the newest first.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::Value;

use crate::auth::Capability;
use crate::state::audit;

use super::super::App;
use super::super::JSON;
use super::super::caller::Caller;
use super::super::collections::{Listing, Pages, answer_pages};
use super::super::error::ApiError;
use super::super::query::Query;

/// Records that are read from the database in one go.
const PAGE_ROWS: u32 = 200;

/// `GET /audit`.
///
/// # Errors
/// 403 for who is no administrator; 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn list(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, None, "audit")?;
    let listing = Listing::of(&Query::of(&request)?).await?;
    let walk = Walk { app, left: listing.limit(), listing: listing.clone(), before: i64::MAX };
    answer_pages(walk, &listing).await
}

/// `GET /audit/<number>`.
///
/// # Errors
/// 403; 404.
pub async fn one(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, None, "audit")?;
    let no_such = || ApiError::NoSuchObject { kind: "audit record", id: id.chars().take(64).collect() };
    let seq: i64 = id.parse().map_err(|_| no_such())?;
    let record = app.store.db().call(move |db| audit::get(db, seq)).await?.ok_or_else(no_such)?;
    Ok(HttpResponse::Ok().content_type(JSON).json(record.json()?))
}

/// A walk from the newest record to the oldest.
#[derive(Clone)]
struct Walk {
    app: web::Data<App>,
    listing: Listing,
    before: i64,
    left: u64,
}

impl Pages for Walk {
    async fn next(&mut self) -> Result<Option<Vec<Value>>, ApiError> {
        while self.left > 0 {
            let before = self.before;
            let page = self.app.store.db().call(move |db| audit::page(db, before, PAGE_ROWS)).await?;
            let Some(last) = page.last() else { return Ok(None) };
            self.before = last.seq;
            let linked = page.iter().map(|one| Ok((one.json()?, format!("/rest/v0/audit/{}", one.seq))));
            let linked: Vec<_> = linked.collect::<Result<_, ApiError>>()?;
            let elements = self.listing.shown_of(linked, self.left).await?;
            self.left = self.left.saturating_sub(elements.len() as u64);
            if !elements.is_empty() {
                return Ok(Some(elements));
            }
        }
        Ok(None)
    }
}
