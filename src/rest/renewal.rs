//! Tokens that the server renews: a request that came with the cookie of a renewable token near its end is answered
//! with another cookie.

use std::cell::Cell;
use std::rc::Rc;

use actix_web::dev::ServiceResponse;
use actix_web::http::header::{HeaderValue, SET_COOKIE};
use actix_web::{HttpMessage, HttpRequest, web};

use super::App;
use super::caller::Caller;
use crate::auth::{self, TokenId};
use crate::state::now_ms;

/// The token of a request that is to be renewed, once it is known. Lives in the request's extensions. Clones are the
/// same.
#[derive(Debug, Clone, Default)]
pub struct Due {
    token: Rc<Cell<Option<TokenId>>>,
}

impl Due {
    /// That of a request.
    pub fn of(request: &HttpRequest) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// Notes who has sent the request.
    pub fn note(&self, caller: &Caller) {
        let token = caller.principal().token.as_ref().filter(|_| caller.is_by_cookie());
        self.token.set(token.filter(|token| auth::is_due(token, now_ms())).map(|token| token.id));
    }
}

/// Renews the token with which a request came, if it is due, and tells its sender. Of requests at the same time, one is
/// told.
pub async fn renew<B>(response: &mut ServiceResponse<B>, due: &Due) {
    let Some(id) = due.token.take() else { return };
    let Some(app) = response.request().app_data::<web::Data<App>>().cloned() else { return };
    match auth::renew_token(app.store.db(), id).await {
        Ok(None) => {}
        Ok(Some(issued)) => {
            let public = app.config.http.public_url.as_deref();
            let secure = app.config.tls.is_on() || public.is_some_and(|url| url.starts_with("https:"));
            if let Ok(value) = HeaderValue::from_str(&cookie(&issued.secret, secure)) {
                response.headers_mut().append(SET_COOKIE, value);
            }
        }
        // The request was answered all the same; the next one tries again.
        Err(error) => tracing::warn!(%error, token = %id, "a token was not renewed"),
    }
}

fn cookie(secret: &str, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("authenticationToken={secret}; Path=/; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_for_this_site_alone_and_no_script() {
        assert_eq!(cookie("x", false), "authenticationToken=x; Path=/; HttpOnly; SameSite=Strict");
        assert_eq!(cookie("x", true), "authenticationToken=x; Path=/; HttpOnly; SameSite=Strict; Secure");
    }
}
