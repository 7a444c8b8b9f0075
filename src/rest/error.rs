//! Everything that a client can be told went wrong, and the only place where it becomes HTTP.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_RANGE, ETAG, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use gantry_actors::EngineError;
use serde_json::{Value, json};

use super::JSON;
use crate::auth::audit::AuditError;
use crate::auth::{AccountError, AuthError};
use crate::backends::local::sr_dir::SrDirError;
use crate::backends::local::{LocalError, Shortage};
use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use crate::formats::ImageError;
use crate::formats::vhd::VhdError;
use crate::image::produce::ProduceError;
use crate::state::StateError;
use crate::transfers::admission::{NotAdmitted, TurnError};
use crate::transfers::import::ImportError;
use crate::transfers::recipe::RecipeError;
use crate::transfers::store_job::StoreJobError;

/// A parameter or a member of a body that cannot be taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Invalid {
    /// The parameter; members of a body are `body.<name>`.
    pub name: String,
    /// What is wrong with it.
    pub message: String,
    /// What was given.
    pub value: Option<Value>,
}

/// An answer that is not what the client wished for.
#[derive(Debug)]
pub enum ApiError {
    /// 401
    Unauthenticated,
    /// 400, about credentials
    BadCredentials(&'static str),
    /// 429
    TooFast {
        /// Seconds until it makes sense to try again.
        retry_after: u64,
    },
    /// 403: the role or the token does not allow it.
    Forbidden {
        /// The object, when it is about one.
        object: Option<String>,
        /// What was tried.
        action: &'static str,
        /// On what kind of thing.
        resource: &'static str,
    },
    /// 403: an operation that is not for this caller.
    ForbiddenOperation {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// 404 for an object
    NoSuchObject {
        /// The type that the contract gives it.
        kind: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// 404 for a route
    NoSuchRoute {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// 404 for an action
    NoSuchAction {
        /// Its name.
        name: String,
        /// Why there is none.
        reason: &'static str,
    },
    /// 400 for a body that is not what its type says
    MalformedBody(String),
    /// 413 for a body of parameters
    BodyTooLong {
        /// The most that is read, bytes.
        limit: u64,
    },
    /// 422 for parameters
    Invalid(Vec<Invalid>),
    /// 422 for what is meant
    Unprocessable {
        /// The stable word for it.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// 400 for a request that makes no sense
    BadRequest {
        /// The stable word for it.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// 400 for a filter that is none, or that takes too much work
    BadFilter {
        /// The expression.
        filter: String,
        /// What is wrong with it.
        message: String,
    },
    /// 500: something of ours ended before it was done
    Unfinished(&'static str),
    /// 409: a task that has not ended cannot be forgotten
    TaskRunning {
        /// The task.
        id: String,
    },
    /// 409: the request with this idempotency key is at work
    RequestInProgress {
        /// Its task, once there is one.
        task: Option<String>,
    },
    /// 409: the request with this idempotency key was answered, and the answer is not kept
    AnswerNotKept {
        /// The status that was answered.
        status: u16,
        /// The `Location` that was answered.
        location: Option<String>,
    },
    /// 503: too many requests with idempotency keys at once
    TooManyRequestsAtWork,
    /// 507: an upload that is longer than what its SR has room for
    NoRoomForUpload(Shortage),
    /// 409: aborted by somebody else
    Aborted,
    /// 503: the length of a compressed export is being found out
    NotFinalYet {
        /// The task that does it.
        task: String,
        /// When it will be known, about.
        retry_after: Duration,
    },
    /// 410: the frames of a compressed export come out as other bytes than those that were sent
    EncoderChanged,
    /// 409: the address has other bytes now
    ContentChanged {
        /// The entity tag that it has now.
        etag: String,
    },
    /// 412
    PreconditionFailed {
        /// The entity tag that it has.
        etag: String,
    },
    /// 416
    RangeNotSatisfiable {
        /// The representation's length, bytes.
        len: u64,
        /// Its entity tag.
        etag: String,
    },
    /// 403: a page of somebody else's has made a browser send it
    CrossSite,
    /// 414
    QueryTooLong {
        /// The most that is read, bytes.
        limit: usize,
    },
    /// 503: what cannot be written down is not done
    Audit(AuditError),
    /// 503: no stream of events now
    NoStream {
        /// Why not, and what helps.
        message: String,
    },
    /// 501
    NotImplemented(&'static str),
    /// 505
    HttpVersion,
    /// An import
    Import(ImportError),
    /// The local store
    Store(LocalError),
    /// A VHD that cannot be made
    Vhd(VhdError),
    /// A source that cannot be read
    Source(ProduceError),
    /// The engine
    Engine(EngineError),
    /// 503: no turn within the time that requests wait
    NotAdmitted(NotAdmitted),
    /// 409: what cannot be done to a task as it is
    TaskState {
        /// The task.
        id: String,
        /// What it is.
        actual: &'static str,
        /// What it would have to be.
        expected: &'static str,
    },
    /// The state database
    State(StateError),
    /// Authentication itself
    Auth(AuthError),
    /// A user that cannot be made, changed or removed
    Account(AccountError),
    /// 409: nobody removes himself
    OwnUser,
}

/// The stable word of an error, in the extensions of its answer.
#[derive(Debug, Clone, Copy)]
pub struct ErrorCode(pub &'static str);

/// What a client sees of an error.
struct Shown {
    status: StatusCode,
    code: &'static str,
    error: Value,
    data: Option<Value>,
}

impl ApiError {
    /// One parameter that cannot be taken.
    pub fn invalid(name: impl Into<String>, message: impl Into<String>, value: Option<Value>) -> Self {
        Self::Invalid(vec![Invalid { name: name.into(), message: message.into(), value }])
    }

    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        self.shown().code
    }

    fn shown(&self) -> Shown {
        let show = |status, code, error: String| Shown { status, code, error: error.into(), data: None };
        let with =
            |status, code, error: String, data| Shown { status, code, error: error.into(), data: Some(data) };
        match self {
            Self::NotFinalYet { task, retry_after } => with(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_final_yet",
                format!(
                    "the length of this compressed export is being found out, until then it cannot be continued: try \
                     again in {} s",
                    seconds(*retry_after)
                ),
                json!({ "taskId": task }),
            ),
            Self::EncoderChanged => show(
                StatusCode::GONE,
                "encoder_changed",
                "this compressed export comes out as other bytes than before: begin it anew with another level".into(),
            ),
            Self::NoRoomForUpload(shortage) => Shown {
                status: StatusCode::INSUFFICIENT_STORAGE,
                code: "insufficient_storage",
                error: format!(
                    "{shortage}; if much of the image is zeros, say ?sparse=true, and only what has to be stored counts"
                )
                .into(),
                data: serde_json::to_value(shortage).ok(),
            },
            Self::Unauthenticated => {
                show(StatusCode::UNAUTHORIZED, "unauthenticated", "invalid credentials".into())
            }
            Self::BadCredentials(message) => {
                show(StatusCode::BAD_REQUEST, "bad_credentials", (*message).into())
            }
            Self::TooFast { retry_after } => show(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_failed_logins",
                format!("too fast authentication tries: try again in {retry_after} s"),
            ),
            Self::Forbidden { object, action, resource } => with(
                StatusCode::FORBIDDEN,
                "not_enough_privileges",
                "not enough privileges".into(),
                json!({ "missingPrivileges": [present([
                    ("objectId", object.clone().map(Value::from)),
                    ("action", Some((*action).into())),
                    ("resource", Some((*resource).into())),
                ])] }),
            ),
            Self::ForbiddenOperation { operation, reason } => with(
                StatusCode::FORBIDDEN,
                "forbidden_operation",
                format!("forbidden operation: {operation}"),
                json!({ "operation": operation, "reason": reason }),
            ),
            Self::NoSuchObject { kind, id } => with(
                StatusCode::NOT_FOUND,
                "no_such_object",
                format!("no such {kind} {id}"),
                json!({ "id": id, "type": kind }),
            ),
            Self::NoSuchRoute { method, path } => {
                show(StatusCode::NOT_FOUND, "no_such_route", format!("no such route {method} {path}"))
            }
            Self::NoSuchAction { name, reason } => {
                show(StatusCode::NOT_FOUND, "no_such_action", format!("no such action {name}: {reason}"))
            }
            Self::MalformedBody(message) => show(StatusCode::BAD_REQUEST, "malformed_body", message.clone()),
            Self::BodyTooLong { limit } => show(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_long",
                format!("the body is longer than {limit} bytes, the most that is read (http.max_json)"),
            ),
            Self::Invalid(list) => {
                let error = list.iter().map(|one| {
                    let mut shown = json!({ "message": one.message });
                    if let (Some(value), Some(shown)) = (&one.value, shown.as_object_mut()) {
                        shown.insert("value".into(), value.clone());
                    }
                    (one.name.clone(), shown)
                });
                Shown {
                    status: StatusCode::UNPROCESSABLE_ENTITY,
                    code: "invalid_parameters",
                    error: Value::Object(error.collect()),
                    data: Some(json!({})),
                }
            }
            Self::Unprocessable { code, message } => {
                with(StatusCode::UNPROCESSABLE_ENTITY, code, message.clone(), json!({}))
            }
            Self::BadRequest { code, message } => show(StatusCode::BAD_REQUEST, code, message.clone()),
            Self::BadFilter { filter, message } => with(
                StatusCode::BAD_REQUEST,
                "bad_filter",
                message.clone(),
                json!({ "stringToParse": filter }),
            ),
            Self::Unfinished(what) => show(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                format!("{what} ended before it was done"),
            ),
            Self::TaskRunning { id } => with(
                StatusCode::CONFLICT,
                "task_running",
                format!("the task {id} has not ended: abort it first"),
                json!({ "id": id }),
            ),
            Self::RequestInProgress { task } => with(
                StatusCode::CONFLICT,
                "idempotency_in_progress",
                match task {
                    Some(task) => format!("the request with this Idempotency-Key is at work as task {task}"),
                    None => "the request with this Idempotency-Key is at work".into(),
                },
                present([("taskId", task.clone().map(Value::from))]),
            ),
            Self::AnswerNotKept { status, location } => with(
                StatusCode::CONFLICT,
                "idempotency_answer_not_kept",
                format!(
                    "the request with this Idempotency-Key was answered with {status}, and is not done again; the \
                     body of the answer is not kept, because it holds a secret or is too long"
                ),
                present([
                    ("status", Some((*status).into())),
                    ("location", location.clone().map(Value::from)),
                ]),
            ),
            Self::TooManyRequestsAtWork => show(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_requests_at_work",
                "too many requests with an Idempotency-Key are at work: try again".into(),
            ),
            Self::Aborted => show(StatusCode::CONFLICT, "aborted", "the transfer was aborted".into()),
            Self::ContentChanged { etag } => with(
                StatusCode::CONFLICT,
                "content_changed",
                format!(
                    "what this address gives was changed within the last 24 hours, so a part of it might be added to \
                     bytes of the old content: download from the beginning, or send If-Range with {etag} for the \
                     new content or with the tag of the old one"
                ),
                json!({ "etag": etag }),
            ),
            Self::PreconditionFailed { etag } => with(
                StatusCode::PRECONDITION_FAILED,
                "precondition_failed",
                format!("If-Match does not name the current entity tag {etag}"),
                json!({ "etag": etag }),
            ),
            Self::RangeNotSatisfiable { len, etag } => with(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                format!("no byte of the range exists: the whole has {len} bytes"),
                json!({ "length": len, "etag": etag }),
            ),
            Self::CrossSite => show(
                StatusCode::FORBIDDEN,
                "cross_site",
                "a page of another site has sent this request with a user's credentials: its origin is not in \
                 http.cors_origins"
                    .into(),
            ),
            Self::QueryTooLong { limit } => show(
                StatusCode::URI_TOO_LONG,
                "query_too_long",
                format!("the query is longer than {limit} bytes, the most that is read"),
            ),
            Self::Audit(error) => {
                show(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", error.to_string())
            }
            Self::NoStream { message } => show(StatusCode::SERVICE_UNAVAILABLE, "no_stream", message.clone()),
            Self::NotImplemented(what) => {
                show(StatusCode::NOT_IMPLEMENTED, "not_implemented", format!("{what} is not implemented"))
            }
            Self::HttpVersion => show(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "http_version",
                "this answer has no known length: HTTP/1.1 is needed for it".into(),
            ),
            Self::Import(error) => show(import_status(error), error.code(), error.to_string()),
            Self::Store(error) => {
                let (status, code) = store_class(error);
                Shown { status, code, error: error.to_string().into(), data: store_data(error) }
            }
            Self::Vhd(error) => {
                with(StatusCode::UNPROCESSABLE_ENTITY, error.code(), error.to_string(), json!({}))
            }
            Self::Source(ProduceError::Pool(error @ IoPoolError::Stuck)) => {
                show(StatusCode::SERVICE_UNAVAILABLE, "storage_stuck", error.to_string())
            }
            Self::Source(error) => {
                show(StatusCode::INTERNAL_SERVER_ERROR, "storage_error", error.to_string())
            }
            Self::NotAdmitted(refused) => with(
                StatusCode::SERVICE_UNAVAILABLE,
                "queue_wait",
                refused.to_string(),
                match refused.place {
                    Some(place) => {
                        json!({ "taskId": refused.task.to_string(), "place": place, "waiting": refused.reason })
                    }
                    None => json!({ "taskId": refused.task.to_string(), "waiting": refused.reason }),
                },
            ),
            Self::TaskState { id, actual, expected } => with(
                StatusCode::CONFLICT,
                "incorrect_state",
                "incorrect state".into(),
                json!({ "object": id, "property": "state", "actual": actual, "expected": expected }),
            ),
            Self::Engine(error @ EngineError::KeyReused { id }) => with(
                StatusCode::CONFLICT,
                "idempotency_mismatch",
                error.to_string(),
                json!({ "taskId": id.to_string() }),
            ),
            Self::Engine(error) => {
                show(StatusCode::SERVICE_UNAVAILABLE, "engine_unavailable", error.to_string())
            }
            Self::State(error) => {
                show(StatusCode::SERVICE_UNAVAILABLE, "state_unavailable", error.to_string())
            }
            Self::Account(error) => {
                let (status, code) = account_class(error);
                show(status, code, error.to_string())
            }
            Self::OwnUser => {
                show(StatusCode::CONFLICT, "own_user", "nobody removes himself: let another administrator do it".into())
            }
            Self::Auth(error) => {
                show(StatusCode::SERVICE_UNAVAILABLE, "state_unavailable", error.to_string())
            }
        }
    }

    fn add_headers(&self, response: &mut HttpResponseBuilder) {
        match self {
            Self::Unauthenticated => {
                response.insert_header((WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"xo\"")));
            }
            Self::TooFast { retry_after } => {
                response.insert_header((RETRY_AFTER, retry_after.to_string()));
            }
            Self::RangeNotSatisfiable { len, etag } => {
                response.insert_header((CONTENT_RANGE, format!("bytes */{len}")));
                response.insert_header((ETAG, etag.as_str()));
            }
            Self::PreconditionFailed { etag } | Self::ContentChanged { etag } => {
                response.insert_header((ETAG, etag.as_str()));
            }
            Self::Engine(_) | Self::NoStream { .. } | Self::TooManyRequestsAtWork | Self::Audit(_) => {
                response.insert_header((RETRY_AFTER, "5"));
            }
            Self::NotAdmitted(refused) => {
                response.insert_header((RETRY_AFTER, refused.retry_after.as_secs().to_string()));
                response.insert_header(("Gantry-Task", refused.task.to_string()));
            }
            Self::NotFinalYet { retry_after, .. } => {
                response.insert_header((RETRY_AFTER, seconds(*retry_after)));
            }
            Self::RequestInProgress { task: Some(task) } => {
                response.insert_header((LOCATION, format!("/rest/v0/tasks/{task}")));
            }
            Self::AnswerNotKept { location: Some(location), .. } => {
                response.insert_header((LOCATION, location.as_str()));
            }
            _ => {}
        }
    }
}

/// Whole seconds to wait, at least one, and so few that a pass that turns out to be faster is noticed.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(1).min(60)
}

/// An object of the members that there are.
fn present<const N: usize>(members: [(&str, Option<Value>); N]) -> Value {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn import_status(error: &ImportError) -> StatusCode {
    match error {
        ImportError::Image(_)
        | ImportError::Archive(_)
        | ImportError::Unfit { .. }
        | ImportError::WrongSize { .. }
        | ImportError::WrongDigest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        ImportError::BrokenOff { .. } => StatusCode::BAD_REQUEST,
        ImportError::Silent { .. } => StatusCode::REQUEST_TIMEOUT,
        ImportError::TooLarge { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        ImportError::Aborted | ImportError::VmExists { .. } => StatusCode::CONFLICT,
        ImportError::Disk(error) => disk_class(error).0,
        ImportError::Store(error) => store_class(error).0,
        ImportError::Worker(IoPoolError::Stuck) => StatusCode::SERVICE_UNAVAILABLE,
        ImportError::Worker(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn disk_class(error: &DiskError) -> (StatusCode, &'static str) {
    match error {
        error if error.is_no_space() => (StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage"),
        DiskError::Vhd { source, .. } | DiskError::VhdLimit { source, .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, source.code())
        }
        DiskError::BadSize { .. } | DiskError::FileTooLarge { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "bad_size")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "storage_error"),
    }
}

fn store_class(error: &LocalError) -> (StatusCode, &'static str) {
    match error {
        LocalError::NoSuchVdi(_)
        | LocalError::NoSuchSr(_)
        | LocalError::NoSuchVm(_)
        | LocalError::NoSuchVbd(_)
        | LocalError::NoSuchVif(_)
        | LocalError::NoSuchNetwork(_) => (StatusCode::NOT_FOUND, "no_such_object"),
        LocalError::NetworkInUse { .. } => (StatusCode::CONFLICT, "network_in_use"),
        LocalError::VmIsSnapshot(_) => (StatusCode::CONFLICT, "vm_is_snapshot"),
        LocalError::VdiIsSnapshot(_) => (StatusCode::UNPROCESSABLE_ENTITY, "vdi_is_snapshot"),
        LocalError::VdiTwice { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "vdi_twice"),
        LocalError::NoPosition { .. } => (StatusCode::CONFLICT, "no_free_position"),
        LocalError::SrUnavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "sr_unavailable"),
        LocalError::SrReadOnly(_) => (StatusCode::CONFLICT, "sr_read_only"),
        LocalError::SrNotEmpty { .. } => (StatusCode::CONFLICT, "sr_not_empty"),
        LocalError::VdiBusy(_) => (StatusCode::CONFLICT, "vdi_busy"),
        LocalError::IsSnapshot(_) => (StatusCode::CONFLICT, "is_snapshot"),
        LocalError::VdiHasChildren { .. } => (StatusCode::CONFLICT, "vdi_has_children"),
        LocalError::ContentReplaced(_) => (StatusCode::CONFLICT, "content_replaced"),
        LocalError::ContentGone(_) => (StatusCode::GONE, "content_gone"),
        LocalError::FileMissing { .. } => (StatusCode::GONE, "disk_file_missing"),
        LocalError::BadPath { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad_path"),
        LocalError::AlreadyKnown { .. } => (StatusCode::CONFLICT, "already_exists"),
        LocalError::NoSpace(_) => (StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage"),
        LocalError::SrDir(SrDirError::Locked { .. }) => (StatusCode::CONFLICT, "sr_locked"),
        LocalError::SrDir(SrDirError::BadIdentity { .. } | SrDirError::Newer { .. }) => {
            (StatusCode::UNPROCESSABLE_ENTITY, "bad_sr_identity")
        }
        LocalError::SrDir(SrDirError::Io { source, .. }) if is_full(source) => {
            (StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage")
        }
        LocalError::SrDir(SrDirError::Io { .. }) => (StatusCode::INTERNAL_SERVER_ERROR, "storage_error"),
        LocalError::Disk(error) => disk_class(error),
        LocalError::Map(_) => (StatusCode::INTERNAL_SERVER_ERROR, "bad_allocation_map"),
        LocalError::State(_) => (StatusCode::SERVICE_UNAVAILABLE, "state_unavailable"),
        LocalError::Pool(IoPoolError::Stuck) => (StatusCode::SERVICE_UNAVAILABLE, "storage_stuck"),
        LocalError::Pool(_) => (StatusCode::INTERNAL_SERVER_ERROR, "storage_error"),
    }
}

fn account_class(error: &AccountError) -> (StatusCode, &'static str) {
    match error {
        AccountError::BadName { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad_user_name"),
        AccountError::BadPassword { .. } | AccountError::PasswordNotText { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "bad_password")
        }
        AccountError::NameTaken { .. } => (StatusCode::CONFLICT, "already_exists"),
        AccountError::LastAdmin { .. } => (StatusCode::CONFLICT, "last_admin"),
        AccountError::NoSuchUser { .. } => (StatusCode::NOT_FOUND, "no_such_object"),
        AccountError::State(_) => (StatusCode::SERVICE_UNAVAILABLE, "state_unavailable"),
        AccountError::Password(_) | AccountError::File { .. } | AccountError::Random(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn store_data(error: &LocalError) -> Option<Value> {
    match error {
        LocalError::NoSuchVdi(id) => Some(json!({ "id": id, "type": "VDI" })),
        LocalError::NoSuchSr(id) => Some(json!({ "id": id, "type": "SR" })),
        LocalError::NoSuchVm(id) => Some(json!({ "id": id, "type": "VM" })),
        LocalError::NoSuchVbd(id) => Some(json!({ "id": id, "type": "VBD" })),
        LocalError::NoSuchNetwork(id) => Some(json!({ "id": id, "type": "network" })),
        LocalError::NoSuchVif(id) => Some(json!({ "id": id, "type": "VIF" })),
        LocalError::NetworkInUse { network, vifs } => Some(json!({ "id": network, "count": vifs })),
        LocalError::VmIsSnapshot(id) => Some(json!({ "id": id })),
        LocalError::VdiIsSnapshot(id) => Some(json!({ "id": id })),
        LocalError::VdiTwice { vm, vdi } => Some(json!({ "VM": vm, "VDI": vdi })),
        LocalError::NoPosition { vm, position, .. } => Some(json!({ "VM": vm, "position": position })),
        LocalError::SrNotEmpty { sr, count } => Some(json!({ "id": sr, "count": count })),
        LocalError::NoSpace(shortage) => serde_json::to_value(shortage).ok(),
        LocalError::AlreadyKnown { uuid, known, offered, .. } => {
            Some(json!({ "id": uuid, "known": known, "offered": offered }))
        }
        LocalError::VdiHasChildren { vdi, children } => Some(json!({ "id": vdi, "children": children })),
        _ => None,
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.shown();
        match shown.error {
            Value::String(text) => f.write_str(&text),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for ApiError {}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.shown().status
    }

    fn error_response(&self) -> HttpResponse {
        let Shown { status, code, error, data } = self.shown();
        let waited = matches!(self, Self::NotAdmitted(_) | Self::NotFinalYet { .. });
        if matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE) && !waited {
            tracing::error!(%status, code, error = ?self, "a request failed");
        }
        let mut body = json!({ "error": error, "code": code });
        if let (Some(data), Some(body)) = (data, body.as_object_mut()) {
            body.insert("data".into(), data);
        }
        let mut response = HttpResponse::build(status);
        self.add_headers(&mut response);
        let mut response = response.content_type(JSON).json(body);
        response.extensions_mut().insert(ErrorCode(code));
        response
    }
}

impl From<LocalError> for ApiError {
    fn from(error: LocalError) -> Self {
        Self::Store(error)
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        Self::Account(error)
    }
}

impl From<StoreJobError> for ApiError {
    fn from(error: StoreJobError) -> Self {
        match error {
            StoreJobError::Turn(error) => error.into(),
            StoreJobError::Store(error) => error.into(),
        }
    }
}

impl From<RecipeError> for ApiError {
    fn from(error: RecipeError) -> Self {
        match error {
            RecipeError::Store(error) => error.into(),
            RecipeError::Vhd(error) => Self::Vhd(error),
            error @ (RecipeError::Xva(_) | RecipeError::Document(_) | RecipeError::Disks { .. }) => {
                Self::Unprocessable { code: "no_xva", message: error.to_string() }
            }
        }
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        Self::Import(ImportError::Image(error))
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => Self::Store(error),
            error => Self::Import(error),
        }
    }
}

impl From<TurnError> for ApiError {
    fn from(error: TurnError) -> Self {
        match error {
            TurnError::NotAdmitted(refused) => Self::NotAdmitted(refused),
            TurnError::Aborted => Self::Aborted,
            TurnError::Engine(error) => Self::Engine(error),
        }
    }
}
