//! Who sends a request, and what he may do.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use actix_web::http::header::HeaderMap;
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, web};
use futures_util::future::LocalBoxFuture;
use gantry_actors::JobId;

use crate::auth::audit::{Actor, Via};
use crate::auth::{AuthError, Capability, CredentialProblem, Credentials, Principal, credentials_from};
use crate::ids::{SrId, UserId};
use crate::transfers::import::ImportPlan;

use super::App;
use super::address::client_address;
use super::error::ApiError;
use super::idempotency::{Claim, Made};
use super::renewal::Due;
use super::revocation::Cut;

/// An authenticated sender. When the request was admitted by the hook for `Expect: 100-continue`, what that
/// found is in here.
#[derive(Debug, Clone)]
pub struct Caller {
    principal: Rc<Principal>,
    address: IpAddr,
    /// Whether the credentials came as a cookie.
    by_cookie: bool,
    audited: Rc<RefCell<Audited>>,
    plan: Rc<RefCell<Option<ImportPlan>>>,
    claim: Rc<RefCell<Option<Rc<Claim>>>>,
}

/// What turns out about a request that is written down in the audit.
#[derive(Debug, Clone, Default)]
pub struct Audited {
    /// The task that does it.
    pub task: Option<JobId>,
    /// The id of what it is about, where the address does not say it.
    pub id: Option<String>,
    /// What people call it.
    pub name: Option<String>,
}

impl Caller {
    /// A sender with nothing planned yet.
    pub fn new(principal: Principal, address: IpAddr) -> Self {
        Self {
            principal: Rc::new(principal),
            address,
            by_cookie: false,
            audited: Rc::default(),
            plan: Rc::default(),
            claim: Rc::default(),
        }
    }

    /// The sender, for the audit.
    pub fn actor(&self) -> Actor {
        Actor::of(&self.principal, Via::Rest, self.address)
    }

    /// Says what is made, for the audit.
    pub fn audit_made(&self, id: impl ToString, name: Option<String>) {
        let mut audited = self.audited.borrow_mut();
        audited.id = Some(id.to_string());
        audited.name = name.or_else(|| audited.name.take());
    }

    /// What has turned out for the audit.
    pub fn audited(&self) -> Audited {
        self.audited.borrow().clone()
    }

    /// A sender whose upload was admitted.
    pub fn with_plan(self, plan: ImportPlan) -> Self {
        self.plan.replace(Some(plan));
        self
    }

    /// Whether the credentials came as a cookie: a browser's, which can be given another.
    pub fn is_by_cookie(&self) -> bool {
        self.by_cookie
    }

    /// Takes the plan of the upload that was admitted.
    pub fn take_plan(&self) -> Option<ImportPlan> {
        self.plan.borrow_mut().take()
    }

    /// Says under which idempotency key the request is at work.
    pub fn hold(&self, claim: Rc<Claim>) {
        self.claim.replace(Some(claim));
    }

    /// What the request is at work under, when it carries an idempotency key.
    pub fn claim(&self) -> Option<Rc<Claim>> {
        self.claim.borrow().clone()
    }

    /// The request's idempotency key.
    pub fn idempotency_key(&self) -> Option<String> {
        self.claim().map(|claim| claim.key().to_owned())
    }

    /// For a POST that has begun a job: notes it, so that the same request again finds it.
    ///
    /// # Errors
    /// 503 when it cannot be noted.
    pub async fn began(&self, task: JobId) -> Result<(), ApiError> {
        self.audited.borrow_mut().task = Some(task);
        match self.claim() {
            Some(claim) => claim.began(task).await,
            None => Ok(()),
        }
    }

    /// For a POST that is about to make something, by a job or by itself: notes what, and the answer that holds once
    /// it exists, so that the same request again makes it only if it does not.
    ///
    /// # Errors
    /// 503 when it cannot be noted.
    pub async fn makes(
        &self,
        made: Made,
        task: Option<JobId>,
        answer: impl FnOnce() -> HttpResponse,
    ) -> Result<(), ApiError> {
        self.audit_made(made.id(), None);
        if task.is_some() {
            self.audited.borrow_mut().task = task;
        }
        match self.claim() {
            Some(claim) => claim.makes(made, task, answer()).await,
            None => Ok(()),
        }
    }

    /// Says that the answer holds something that must not be kept for another time.
    pub fn answers_a_secret(&self) {
        if let Some(claim) = self.claim() {
            claim.keep_secret();
        }
    }

    /// The user.
    pub fn user(&self) -> UserId {
        self.principal.user
    }

    /// The user with his rights.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Refuses what role or token do not allow.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`].
    pub fn require(
        &self,
        capability: Capability,
        object: Option<&str>,
        resource: &'static str,
    ) -> Result<(), ApiError> {
        self.principal.require(capability).map_err(|forbidden| ApiError::Forbidden {
            object: object.map(str::to_owned),
            action: forbidden.missing.name(),
            resource,
        })
    }

    /// Refuses an object that the token does not see.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`].
    pub fn require_sr(&self, sr: SrId, object: &str) -> Result<(), ApiError> {
        if self.principal.sees(object, Some(&sr.to_string())) {
            return Ok(());
        }
        Err(ApiError::Forbidden { object: Some(object.to_owned()), action: "read", resource: "object" })
    }

    /// Finds out who has sent a request with these headers.
    ///
    /// # Errors
    /// 400, 401 and 429 as the contract has them.
    pub async fn authenticate(
        app: &App,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Self, ApiError> {
        let cookies = headers.get_all("cookie").filter_map(|value| value.to_str().ok());
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap_or(" "));
        let credentials = credentials_from(cookies, authorization).map_err(|problem| match problem {
            CredentialProblem::Multiple => ApiError::BadCredentials(
                "Having multiple authentication methods is not supported, please choose one",
            ),
            CredentialProblem::Malformed => ApiError::BadCredentials("Malformed Authorization header"),
            CredentialProblem::Invalid => ApiError::Unauthenticated,
        })?;
        let credentials = credentials.ok_or(ApiError::Unauthenticated)?;
        let by_cookie = authorization.is_none();
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let address = client_address(&app.config.http.trusted_proxies, headers, peer);
        let name = match &credentials {
            Credentials::Password { user, .. } => Some(user.clone()),
            Credentials::Token(_) => None,
        };
        match app.authenticator.authenticate(credentials, address).await {
            Ok(principal) => {
                if name.is_some() {
                    app.audit.signed_in(&principal, Via::Rest, address).await.map_err(ApiError::Audit)?;
                }
                Ok(Self { by_cookie, ..Self::new(principal, address) })
            }
            Err(error) => {
                if matches!(error, AuthError::Invalid) {
                    app.audit.login_failed(name.as_deref(), Via::Rest, address).await;
                }
                Err(refusal(error))
            }
        }
    }
}

/// What a client is told of a failed authentication.
pub fn refusal(error: AuthError) -> ApiError {
    match error {
        AuthError::Invalid => ApiError::Unauthenticated,
        AuthError::TooFast { retry_after } => ApiError::TooFast {
            retry_after: retry_after.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(1),
        },
        error => ApiError::Auth(error),
    }
}

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut actix_web::dev::Payload) -> Self::Future {
        let admitted = request.extensions().get::<Self>().cloned();
        let app = request.app_data::<web::Data<App>>().cloned();
        let cut = request.extensions().get::<Cut>().cloned();
        let (headers, peer) = (request.headers().clone(), request.peer_addr().map(|peer| peer.ip()));
        let due = Due::of(request);
        let request = request.clone();
        Box::pin(async move {
            if let Some(admitted) = admitted {
                return Ok(admitted);
            }
            let app = app.ok_or(ApiError::NotImplemented("a service without its state"))?;
            let caller = Self::authenticate(&app, &headers, peer).await?;
            if let Some(cut) = cut {
                cut.when_revoked(&app.revocations, caller.principal());
            }
            // For who looks for the sender later: the line in the log, the audit.
            request.extensions_mut().insert(caller.clone());
            due.note(&caller);
            Ok(caller)
        })
    }
}
