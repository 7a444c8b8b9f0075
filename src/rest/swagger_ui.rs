//! `GET /docs`: the API's description in a browser, by Swagger UI, which is part of the program. Nothing is fetched
//! from elsewhere, and there is no script or style in the page itself that a strict policy would have to allow.

#[cfg(feature = "swagger-ui")]
use std::borrow::Cow;

use actix_web::dev::Payload;
#[cfg(feature = "swagger-ui")]
use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
#[cfg(feature = "swagger-ui")]
use bytes::Bytes;

use super::caller::Caller;
use super::error::ApiError;
use super::public::no_route;

#[cfg(feature = "swagger-ui")]
const PAGE: &str = include_str!("swagger_ui/index.html");
#[cfg(feature = "swagger-ui")]
const START: &str = include_str!("swagger_ui/start.js");
/// The page and its parts change with the program only, but their names do not: browsers ask again.
#[cfg(feature = "swagger-ui")]
const FRESH: HeaderValue = HeaderValue::from_static("no-cache");

/// `GET /docs`.
///
/// # Errors
/// 501 in a build without it.
pub async fn page() -> Result<HttpResponse, ApiError> {
    #[cfg(feature = "swagger-ui")]
    return Ok(part("text/html; charset=utf-8", Bytes::from_static(PAGE.as_bytes())));
    #[cfg(not(feature = "swagger-ui"))]
    Err(ApiError::NotImplemented("a page for people, in a build without the feature swagger-ui,"))
}

/// `GET /docs/<file>`.
///
/// # Errors
/// 404 for what is no part of it, after authentication as everywhere.
pub async fn file(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    #[cfg(feature = "swagger-ui")]
    match name.as_str() {
        "index.html" => return page().await,
        "start.js" => {
            return Ok(part("text/javascript; charset=utf-8", Bytes::from_static(START.as_bytes())));
        }
        name => {
            if let Some((kind, bytes)) = embedded(name) {
                return Ok(part(kind, bytes));
            }
        }
    }
    #[cfg(not(feature = "swagger-ui"))]
    let _ = name;
    no_route(Caller::from_request(&request, &mut Payload::None).await?, request).await
}

#[cfg(feature = "swagger-ui")]
fn part(kind: &'static str, bytes: Bytes) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, FRESH)).content_type(kind).body(bytes)
}

/// The parts of Swagger UI that the page has.
#[cfg(feature = "swagger-ui")]
fn embedded(name: &str) -> Option<(&'static str, Bytes)> {
    let kind = match name {
        "swagger-ui.css" | "index.css" => "text/css; charset=utf-8",
        "swagger-ui-bundle.js" => "text/javascript; charset=utf-8",
        "favicon-16x16.png" | "favicon-32x32.png" => "image/png",
        _ => return None,
    };
    let file = utoipa_swagger_ui::serve(name, std::sync::Arc::default()).ok()??;
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Some((kind, bytes))
}
