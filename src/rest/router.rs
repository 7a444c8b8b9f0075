//! Routes that are known by method and path as soon as they are added, which actix-web's own do not tell. Whoever
//! adds routes gets only this, so that none can be there of which the API's description knows nothing (see
//! `openapi`).

use actix_web::guard;
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, CONTENT_TYPE};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Responder, web};

use super::caller::Caller;
use super::error::ApiError;
use super::public;

/// A method and a path that something answers. Paths are as OpenAPI writes them: parameters in braces, without the
/// patterns that they have to match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The path.
    pub path: String,
    /// The method, in lower case.
    pub method: &'static str,
}

/// Where routes are added.
pub struct Router<'a> {
    config: &'a mut web::ServiceConfig,
    endpoints: Vec<Endpoint>,
}

impl<'a> Router<'a> {
    /// No routes yet.
    pub fn new(config: &'a mut web::ServiceConfig) -> Self {
        Self { config, endpoints: Vec::new() }
    }

    /// Adds all routes of an address.
    pub fn service(&mut self, resource: Resource) -> &mut Self {
        let allowed = allowed(&resource.endpoints);
        let others = web::route()
            .to(move |caller: Caller, request: HttpRequest| other_method(allowed.clone(), caller, request));
        self.config.service(resource.inner.default_service(others));
        self.endpoints.extend(resource.endpoints);
        self
    }

    /// Answers what has no route. Everything that has one is returned.
    pub fn finish(self) -> Vec<Endpoint> {
        self.config.default_service(web::route().to(public::no_route));
        self.endpoints
    }
}

/// An address, with and without a slash at its end.
pub struct Resource {
    path: String,
    inner: actix_web::Resource,
    endpoints: Vec<Endpoint>,
}

/// The address of a path, in actix-web's syntax.
pub fn resource(path: &str) -> Resource {
    exactly([path.to_owned(), format!("{path}/")])
}

/// An address that is several paths; it is described as the first one.
pub fn exactly<const N: usize>(paths: [String; N]) -> Resource {
    let path = paths.first().map(|path| described(path.trim_end_matches('/'))).unwrap_or_default();
    Resource { path, inner: web::resource(paths.to_vec()), endpoints: Vec::new() }
}

impl Resource {
    /// Adds what answers a method.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        let path = &self.path;
        self.endpoints.extend(route.methods.iter().map(|method| Endpoint { path: path.clone(), method }));
        self.inner = self.inner.route(route.inner);
        self
    }
}

/// What answers some methods.
pub struct Route {
    methods: &'static [&'static str],
    inner: actix_web::Route,
}

impl Route {
    /// By which function.
    #[must_use]
    pub fn to<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        Self { inner: self.inner.to(handler), ..self }
    }
}

/// GET, and HEAD, which is GET without a body, everywhere.
pub fn read() -> Route {
    let either = guard::Any(guard::Get()).or(guard::Head());
    Route { methods: &["get"], inner: web::route().guard(either) }
}

/// POST.
pub fn post() -> Route {
    Route { methods: &["post"], inner: web::post() }
}

/// PUT.
pub fn put() -> Route {
    Route { methods: &["put"], inner: web::put() }
}

/// PATCH.
pub fn patch() -> Route {
    Route { methods: &["patch"], inner: web::patch() }
}

/// DELETE.
pub fn delete() -> Route {
    Route { methods: &["delete"], inner: web::delete() }
}

/// All methods; the description names those that there is a use for.
pub fn any() -> Route {
    Route { methods: &["get", "post", "put", "patch", "delete"], inner: web::route() }
}

/// The methods of an address, as `Allow` has them.
fn allowed(endpoints: &[Endpoint]) -> String {
    let has = |method: &str| endpoints.iter().any(|endpoint| endpoint.method == method);
    let all =
        [("get", "GET,HEAD"), ("post", "POST"), ("put", "PUT"), ("patch", "PATCH"), ("delete", "DELETE")];
    let names: Vec<&str> =
        all.into_iter().filter(|(method, _)| has(method)).map(|(_, names)| names).collect();
    names.join(",")
}

/// What an address answers to a method that none of its routes is for: to `OPTIONS`, which ones they are.
async fn other_method(
    allowed: String,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    if *request.method() != Method::OPTIONS {
        return public::no_route(caller, request).await;
    }
    let mut response = HttpResponse::Ok();
    response
        .insert_header((ALLOW, allowed.as_str()))
        .insert_header((CONTENT_TYPE, "text/plain; charset=utf-8"));
    Ok(response.body(allowed))
}

/// A path without the patterns of its parameters.
fn described(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let (mut depth, mut in_pattern) = (0_u32, false);
    for character in path.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ':' if depth == 1 => in_pattern = true,
            _ => {}
        }
        if depth == 0 {
            in_pattern = false;
        }
        if !in_pattern {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_an_address_are_those_of_its_routes() {
        let of = |resource: Resource| allowed(&resource.endpoints);
        let none = || async { "" };
        assert_eq!(of(resource("/a").route(delete().to(none)).route(read().to(none))), "GET,HEAD,DELETE");
        assert_eq!(of(resource("/a").route(any().to(none))), "GET,HEAD,POST,PUT,PATCH,DELETE");
        assert_eq!(of(resource("/a")), "");
    }

    #[test]
    fn a_path_is_described_without_the_patterns_of_its_parameters() {
        for (path, text) in [
            ("/a/{id}.{format}", "/a/{id}.{format}"),
            ("/me/{rest:.*}", "/me/{rest}"),
            ("/a/{id:[0-9]{3}}/b", "/a/{id}/b"),
            ("/a", "/a"),
        ] {
            assert_eq!(described(path), text);
        }
    }
}
