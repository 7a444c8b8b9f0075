//! The HTTP server itself, built from the parts below actix-web because only these have a hook for
//! `Expect: 100-continue` and let a connection be seen and cut.

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpMessage, HttpServiceBuilder, Request, Response};
use actix_server::{GracefulShutdownSignal, Server, ServerHandle};
use actix_service::{ServiceFactory, fn_service, map_config};
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Service, ServiceResponse};
use actix_web::http::{Method, Version};
use actix_web::middleware::from_fn;
use actix_web::{App as WebApp, HttpResponse, ResponseError, web};
use rustls::ServerConfig;
use tokio::net::TcpStream;

use super::App;
use super::access::Line;
use super::audit;
use super::caller::Caller;
use super::coding::Wanted;
use super::connection::Connection;
use super::edge::{Held, SharedPayload};
use super::error::ApiError;
use super::idempotency::{self, Idempotency, Opened};
use super::imports::{self, Head, UploadAddress};
use super::origin::{self, Shared};
use super::renewal::{self, Due};
use super::revocation::Cut;
use super::routes;

/// The longest query that is read. The HTTP library refuses addresses of 64 KiB with a bare 400.
const MAX_QUERY_BYTES: usize = 60 << 10;
/// How often old records of the audit are cut off.
const CUT_EVERY: Duration = Duration::from_secs(60 * 60);
/// How long what a client still sends is discarded before its connection is closed.
const DISCONNECT: Duration = Duration::from_secs(3);
/// How often connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// The server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A server that listens.
pub struct Listening {
    /// Serves until it is stopped.
    pub server: Server,
    /// Stops it.
    pub handle: ServerHandle,
    /// Where it listens, with the ports that were taken.
    pub addresses: Vec<SocketAddr>,
}

/// Binds all addresses. Requests are answered as soon as `server` is polled.
///
/// # Errors
/// [`ServiceError::Bind`].
pub fn bind(
    app: &web::Data<App>,
    tls: Option<&ServerConfig>,
    shutdown: Duration,
) -> Result<Listening, ServiceError> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let mut builder =
        Server::build().workers(workers).disable_signals().shutdown_timeout(shutdown.as_secs().max(1));
    let mut addresses = Vec::new();
    for address in &app.config.listen {
        let failed = |source| ServiceError::Bind { address: *address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        addresses.push(local);
        let stopping = builder.graceful_shutdown_signal();
        let app = app.clone();
        let name = format!("http {local}");
        builder = match tls {
            None => builder.listen(name, listener, move || {
                http::<TcpStream, _>(&app, stopping.clone(), |io| io)
                    .expect(expect_hook(app.clone()))
                    .finish(map_config(web_app(app.clone()), |()| AppConfig::default()))
                    .tcp()
            }),
            Some(tls) => {
                let tls = tls.clone();
                builder.listen(name, listener, move || {
                    http::<TlsStream<TcpStream>, _>(&app, stopping.clone(), |io| io.get_ref().0)
                        .expect(expect_hook(app.clone()))
                        .finish(map_config(web_app(app.clone()), |()| AppConfig::default()))
                        .rustls_0_23(tls.clone())
                })
            }
        }
        .map_err(failed)?;
    }
    let server = builder.run();
    let handle = server.handle();
    Ok(Listening { server, handle, addresses })
}

/// What plain and encrypted connections have in common.
fn http<T: 'static, S>(
    app: &web::Data<App>,
    stopping: GracefulShutdownSignal,
    socket: impl Fn(&T) -> &TcpStream + 'static,
) -> HttpServiceBuilder<T, S>
where
    S: ServiceFactory<Request, Config = ()>,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: std::fmt::Debug,
    <S::Service as Service<Request>>::Future: 'static,
{
    HttpServiceBuilder::default()
        .keep_alive(app.config.http.idle_timeout.get())
        .client_request_timeout(app.config.http.head_timeout.get())
        .client_disconnect_timeout(DISCONNECT)
        .h1_allow_half_closed(false)
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .on_connect_ext(remember(app.clone(), socket))
}

/// Keeps what is needed to see and cut a connection.
fn remember<T: 'static>(
    app: web::Data<App>,
    socket: impl Fn(&T) -> &TcpStream + 'static,
) -> impl Fn(&T, &mut actix_web::dev::Extensions) + 'static {
    move |io, extensions| match Connection::new(socket(io)) {
        Ok(connection) => {
            app.connections.add(&connection);
            extensions.insert(connection);
        }
        Err(error) => tracing::error!(%error, "a connection cannot be watched"),
    }
}

/// Looks through the connections every few seconds, and for revoked tokens, for ever.
pub async fn sweep_connections(app: web::Data<App>) {
    let limit = app.config.http.idle_timeout.get() + app.config.http.head_timeout.get();
    let idle = async {
        loop {
            tokio::time::sleep(SWEEP).await;
            app.connections.sweep(limit);
        }
    };
    let cut = async {
        loop {
            match app.audit.cut(app.config.audit.keep.get()).await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "old records of the audit were cut off"),
                Err(error) => tracing::warn!(%error, "old records of the audit cannot be cut off"),
            }
            tokio::time::sleep(CUT_EVERY).await;
        }
    };
    tokio::join!(idle, cut, app.revocations.follow(app.store.db()));
}

/// Decides about an upload before its body is asked for. A refusal, or the answer to a request that was answered
/// before, keeps the unread body alive until it is out.
fn expect_hook(
    app: web::Data<App>,
) -> impl ServiceFactory<Request, Config = (), Response = Request, Error = Response<BoxBody>, InitError = ()>
{
    fn_service(move |mut request: Request| {
        let app = app.clone();
        async move {
            let line = Line::begin(&app.config, request.head());
            let shared = Shared::of(&app.config, request.headers());
            let admitted = match allowed(&app, request.head()) {
                Ok(()) => admit(&app, &request).await,
                Err(refused) => Err(refused),
            };
            let answer = match admitted {
                Ok(Admitted::Caller(caller)) => {
                    // It comes through the application, where its line begins anew.
                    if let Some(line) = line {
                        line.forget();
                    }
                    HttpMessage::extensions_mut(&request).insert(*caller);
                    return Ok(request);
                }
                Ok(Admitted::Answered(answer)) => answer,
                Err(refusal) => refusal.error_response(),
            };
            let unread = SharedPayload::new(HttpMessage::take_payload(&mut request));
            let mut response: Response<BoxBody> = answer.into();
            shared.add_to(response.headers_mut());
            Err(response.map_body(|head, body| {
                head.set_connection_type(actix_http::ConnectionType::Close);
                let line = line.map(|mut line| {
                    line.answered(None, head.status, &head.headers, body.size());
                    line
                });
                BoxBody::new(Held::new(body, Some(unread), false, None).logged(line))
            }))
        }
    })
}

/// Refuses what no route has to see.
fn allowed(app: &App, head: &actix_http::RequestHead) -> Result<(), ApiError> {
    if head.uri.query().is_some_and(|query| query.len() > MAX_QUERY_BYTES) {
        return Err(ApiError::QueryTooLong { limit: MAX_QUERY_BYTES });
    }
    origin::refuse_cross_site(&app.config, head)
}

/// What is to become of a request whose body was not asked for yet.
enum Admitted {
    /// It goes on.
    Caller(Box<Caller>),
    /// It has its answer, and needs no body.
    Answered(HttpResponse),
}

async fn admit(app: &App, request: &Request) -> Result<Admitted, ApiError> {
    let head = request.head();
    let method = if routes::is_lower_case_patch(&head.method) { Method::PATCH } else { head.method.clone() };
    let peer = head.peer_addr.map(|peer| peer.ip());
    let caller = Caller::authenticate(app, head.headers(), peer).await?;
    let path = head.uri.path();
    // Without a body there is nothing to be asked for: the route decides.
    let bodiless = matches!(method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    if bodiless {
        return Ok(Admitted::Caller(Box::new(caller)));
    }
    if !routes::takes_body(&method, path) {
        return Err(ApiError::NoSuchRoute {
            method: method.to_string(),
            path: path.chars().take(200).collect(),
        });
    }
    let Some(address) = UploadAddress::of(&method, path) else {
        return Ok(Admitted::Caller(Box::new(caller)));
    };
    let head = Head { query: head.uri.query().unwrap_or_default(), headers: head.headers() };
    let claim = match Idempotency::open_upload(app, &caller, &method, path, head).await? {
        None => None,
        Some(Opened::Known(answer)) => return Ok(Admitted::Answered(answer)),
        Some(Opened::New(claim)) => Some(Rc::new(claim)),
    };
    if let Some(claim) = &claim {
        caller.hold(Rc::clone(claim));
    }
    let planned = imports::plan(app, &caller, &address, head).await;
    if let Err(refused) = &planned {
        audit::upload_refused(app, &caller, (&method, path, head.query), refused).await;
    }
    match (planned, claim) {
        (Ok(plan), _) => Ok(Admitted::Caller(Box::new(caller.with_plan(plan)))),
        (Err(refused), Some(claim)) => Ok(Admitted::Answered(claim.finish(refused.error_response()).await)),
        (Err(refused), None) => Err(refused),
    }
}

/// The application of one worker.
fn web_app(
    app: web::Data<App>,
) -> impl ServiceFactory<
    Request,
    Config = AppConfig,
    Response = ServiceResponse<impl MessageBody>,
    Error = actix_web::Error,
    InitError = (),
> + 'static {
    let state = app.clone();
    let factory = WebApp::new()
        .app_data(app)
        .configure(routes::add)
        .wrap(from_fn(audit::guard))
        .wrap(from_fn(idempotency::guard))
        .wrap_fn(move |mut request, service| {
            let mut line = Line::begin(&state.config, request.head());
            let shared = Shared::of(&state.config, request.headers());
            if routes::is_lower_case_patch(request.method()) {
                request.head_mut().method = Method::PATCH;
            }
            let in_flight = request.conn_data::<Arc<Connection>>().map(Connection::enter);
            let cut = Cut::default();
            let due = Due::default();
            request.extensions_mut().insert(cut.clone());
            request.extensions_mut().insert(due.clone());
            let admitted = request.extensions().get::<Caller>().cloned();
            if let (Some(caller), Some(app)) = (admitted, request.app_data::<web::Data<App>>()) {
                cut.when_revoked(&app.revocations, caller.principal());
                due.note(&caller);
            }
            let unread = SharedPayload::install(&mut request, &cut);
            let version = request.version();
            let http2 = version == Version::HTTP_2;
            let early = match allowed(&state, request.head()) {
                Ok(()) => origin::preflight(&state.config, request.head()),
                Err(refused) => Some(refused.error_response()),
            };
            let wanted = Wanted::of(request.method(), request.headers());
            let called = match early {
                Some(answer) => Err(request.into_response(answer)),
                None => Ok(service.call(request)),
            };
            async move {
                let mut response = match called {
                    Ok(called) => wanted.answer(called.await?.map_into_boxed_body()).await,
                    Err(early) => early,
                };
                renewal::renew(&mut response, &due).await;
                // The library would send it chunked, which HTTP/1.0 does not know.
                if version == Version::HTTP_10 && response.response().body().size() == BodySize::Stream {
                    response = response.into_response(ApiError::HttpVersion.error_response());
                }
                shared.add_to(response.headers_mut());
                if let Some(line) = &mut line {
                    let caller = response.request().extensions().get::<Caller>().cloned();
                    let (head, size) = (response.response(), response.response().body().size());
                    line.answered(caller.as_ref(), head.status(), head.headers(), size);
                }
                let early_success = http2 && idempotency::is_replayed(response.headers());
                Ok(response.map_body(|_, body| {
                    let held = Held::new(body, unread, http2, in_flight).until(cut).logged(line);
                    BoxBody::new(if early_success { held.discard_first() } else { held })
                }))
            }
        });
    actix_service::IntoServiceFactory::<_, Request>::into_factory(factory)
}
