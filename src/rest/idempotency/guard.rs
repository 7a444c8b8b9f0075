//! Where requests pass that carry a key: before their route, and before an upload's body is asked for.

use std::rc::Rc;

use actix_http::HttpMessage;
use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, ResponseError, web};
use bytes::Bytes;
use futures_util::stream;

use super::{Claim, Idempotency, Key, Opened, Parameters, address, fingerprint};
use crate::rest::App;
use crate::rest::caller::Caller;
use crate::rest::error::ApiError;
use crate::rest::imports::{Head, UploadAddress};
use crate::rest::query::read_body;

impl Idempotency {
    /// Looks an upload up by its head, and takes it if it is new. `None` when it carries no key.
    ///
    /// # Errors
    /// As the contract lists them.
    pub async fn open_upload(
        app: &App,
        caller: &Caller,
        method: &Method,
        path: &str,
        head: Head<'_>,
    ) -> Result<Option<Opened>, ApiError> {
        let Some((key, address)) = named(method, path, head.headers)? else { return Ok(None) };
        let print = fingerprint(caller.principal(), head.query, head.headers, Parameters::Upload);
        Self::open(app, caller, address, &key, print).await.map(Some)
    }
}

/// Key and address of a request that has both.
fn named(method: &Method, path: &str, headers: &HeaderMap) -> Result<Option<(Key, String)>, ApiError> {
    if *method != Method::POST {
        return Ok(None);
    }
    Ok(Key::of(headers)?.zip(address(method, path)))
}

/// Lets requests pass; those with a key once.
///
/// # Errors
/// Those of the route.
pub async fn guard(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let admitted = request.extensions().get::<Caller>().and_then(Caller::claim);
    let claim = match admitted {
        Some(claim) => claim,
        None => match open(&mut request).await {
            Ok(None) => return next.call(request).await,
            Ok(Some(Opened::New(claim))) => take(&request, claim),
            Ok(Some(Opened::Known(response))) => return Ok(request.into_response(response)),
            Err(refused) => return Ok(request.into_response(refused.error_response())),
        },
    };
    // On its own, so that it goes on to its end and is written down when the client hangs up. An upload ends with
    // its body.
    let work = actix_web::rt::spawn(async move {
        let (request, response) = next.call(request).await?.into_parts();
        Ok(ServiceResponse::new(request, claim.finish(response).await))
    });
    match work.await {
        Ok(answer) => answer,
        // As without a key: the connection ends.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(actix_web::error::ErrorServiceUnavailable(error)),
        },
    }
}

async fn open(request: &mut ServiceRequest) -> Result<Option<Opened>, ApiError> {
    // Without a look at the credentials, which the route does by itself.
    if *request.method() != Method::POST || !request.headers().contains_key("idempotency-key") {
        return Ok(None);
    }
    let Some(app) = request.app_data::<web::Data<App>>().cloned() else { return Ok(None) };
    let admitted = request.extensions().get::<Caller>().cloned();
    let caller = match admitted {
        Some(caller) => caller,
        None => {
            let caller = Caller::from_request(request.request(), &mut Payload::None).await?;
            request.extensions_mut().insert(caller.clone());
            caller
        }
    };
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let Some((key, address)) = named(&method, &path, request.headers())? else { return Ok(None) };
    if UploadAddress::of(&method, &path).is_some() {
        let head = Head { query: request.query_string(), headers: request.headers() };
        return Idempotency::open_upload(&app, &caller, &method, &path, head).await;
    }
    let body = read_body(&mut request.take_payload(), app.config.http.max_json.bytes()).await?;
    let parameters = Parameters::Body(&body);
    let print = fingerprint(caller.principal(), request.query_string(), request.headers(), parameters);
    request.set_payload(Payload::Stream { payload: Box::pin(stream::once(async { Ok(Bytes::from(body)) })) });
    Idempotency::open(&app, &caller, address, &key, print).await.map(Some)
}

/// Puts the claim where the handler finds it.
fn take(request: &ServiceRequest, claim: Claim) -> Rc<Claim> {
    let claim = Rc::new(claim);
    if let Some(caller) = request.extensions().get::<Caller>() {
        caller.hold(Rc::clone(&claim));
    }
    claim
}
