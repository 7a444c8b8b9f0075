//! Which request is answered by what. Every address takes a trailing slash; what has no route is 404 after
//! authentication, never 405.

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::ids::DiskFormat;
use crate::inventory::Collection;

use super::App;
use super::caller::Caller;
use super::error::ApiError;
use super::imports::{self, UploadAddress, unknown_format};
use super::query::{Params, Query};
use super::router::{Endpoint, Router, any, delete, patch, post, put, read, resource};
use super::{
    audit, collections, events, exports, networks, openapi, public, rpc, srs, swagger_ui, tasks, users, vbds,
    vdi_actions, vdis, vms,
};

type Answer = Result<HttpResponse, ApiError>;
type Service = web::Data<App>;

/// Adds all routes.
pub fn add(config: &mut web::ServiceConfig) {
    // A WebSocket is no operation that OpenAPI could describe.
    config
        .service(
            web::resource("/api/")
                .route(web::get().to(rpc::connect))
                .default_service(web::route().to(public::no_route)),
        )
        .service(web::resource("/api").route(web::route().to(rpc::nowhere)));
    endpoints(config);
}

/// Adds all routes, and says what they are.
pub fn endpoints(config: &mut web::ServiceConfig) -> Vec<Endpoint> {
    let mut router = Router::new(config);
    let config = &mut router;
    public_routes(config);
    users_and_tasks(config);
    streams(config);
    uploads_and_downloads(config);
    objects(config);
    vms_of_all_kinds(config);
    router.finish()
}

fn public_routes(config: &mut Router<'_>) {
    config
        .service(resource("/ping").route(read().to(public::ping)))
        .service(resource("/rest/v0/ping").route(read().to(public::ping)))
        .service(resource("/health/live").route(read().to(public::live)))
        .service(resource("/health/ready").route(read().to(public::ready)))
        .service(resource("/rest/v0/mcp/status").route(read().to(public::mcp_status)))
        .service(resource("/rest/v0/gui-routes").route(read().to(public::gui_routes)))
        .service(resource("/rest/v0/docs/swagger.json").route(read().to(openapi::serve)))
        .service(resource("/rest/v0/docs").route(read().to(swagger_ui::page)))
        .service(resource("/rest/v0/docs/{file}").route(read().to(swagger_ui::file)))
        .service(resource("/rest/v0").route(read().to(collections::root)));
}

fn users_and_tasks(config: &mut Router<'_>) {
    config
        .service(resource("/rest/v0/users").route(read().to(users::list)).route(post().to(users::create)))
        .service(resource("/rest/v0/users/me").route(any().to(users::me)))
        .service(resource("/rest/v0/users/me/{rest:.*}").route(any().to(users::me)))
        .service(resource("/rest/v0/users/authentication_tokens").route(post().to(create_token_of_caller)))
        .service(
            resource("/rest/v0/users/{id}")
                .route(read().to(user))
                .route(patch().to(change_user))
                .route(delete().to(delete_user)),
        )
        .service(
            resource("/rest/v0/users/{id}/authentication_tokens")
                .route(read().to(list_tokens))
                .route(post().to(create_token)),
        )
        .service(
            resource("/rest/v0/users/{id}/authentication_tokens/{token}").route(delete().to(delete_token)),
        )
        .service(
            resource("/rest/v0/tasks").route(read().to(list_tasks)).route(delete().to(tasks::forget_all)),
        )
        .service(
            resource("/rest/v0/tasks/{id}")
                .route(read().to(task))
                .route(patch().to(adjust_task))
                .route(delete().to(forget_task)),
        )
        .service(resource("/rest/v0/audit").route(read().to(audit::list)))
        .service(resource("/rest/v0/audit/{id}").route(read().to(audit_record)))
        .service(resource("/rest/v0/tasks/{id}/actions").route(read().to(task_actions)))
        .service(
            resource("/rest/v0/tasks/{id}/actions/{action}")
                .route(read().to(task_action))
                .route(post().to(act_on_task)),
        );
}

fn streams(config: &mut Router<'_>) {
    config
        .service(resource("/rest/v0/events").route(read().to(events::routes::stream)))
        .service(resource("/rest/v0/events/{connection}/subscriptions").route(post().to(subscribe)))
        .service(
            resource("/rest/v0/events/{connection}/subscriptions/{kind}").route(delete().to(unsubscribe)),
        );
}

fn uploads_and_downloads(config: &mut Router<'_>) {
    for collection in ["vdis", "vdi-snapshots"] {
        let file = resource(&format!("/rest/v0/{collection}/{{id}}.{{format}}")).route(read().to(download));
        let file = if collection == "vdis" { file.route(put().to(upload_content)) } else { file };
        config
            .service(file)
            .service(resource(&format!("/rest/v0/{collection}/{{id}}/extents")).route(read().to(extents)));
    }
    for collection in [Collection::Vms, Collection::VmSnapshots, Collection::VmTemplates] {
        let download = move |app: Service,
                             caller: Caller,
                             request: HttpRequest,
                             path: web::Path<(String, String)>| async move {
            let (id, extension) = path.into_inner();
            known_as_id(collection.kind(), &id, &extension)?;
            if extension != "xva" {
                let message = "invalid format: xva is needed";
                return Err(ApiError::invalid("format", message, Some(extension.into())));
            }
            exports::serve_vm(app, caller, request, id, collection).await
        };
        let path = format!("/rest/v0/{}/{{id}}.{{format}}", collection.name());
        config.service(resource(&path).route(read().to(download)));
    }
    config
        .service(resource("/rest/v0/pools/{id}/vms").route(post().to(upload_vm)))
        .service(resource("/rest/v0/srs/{id}/vdis").route(post().to(upload_new)))
        .service(resource("/rest/v0/srs/{id}/actions").route(read().to(sr_actions)))
        .service(
            resource("/rest/v0/srs/{id}/actions/{action}")
                .route(read().to(sr_action))
                .route(post().to(act_on_sr)),
        )
        .service(resource("/rest/v0/vdis/{id}/actions").route(read().to(vdi_actions)))
        .service(
            resource("/rest/v0/vdis/{id}/actions/{action}")
                .route(read().to(vdi_action))
                .route(post().to(act_on_vdi)),
        );
}

fn objects(config: &mut Router<'_>) {
    for collection in Collection::ALL {
        let name = collection.name();
        let mut all = resource(&format!("/rest/v0/{name}")).route(read().to(
            move |app: Service, caller: Caller, request: HttpRequest| {
                collections::list(app, caller, request, collection)
            },
        ));
        let mut one = resource(&format!("/rest/v0/{name}/{{id}}"))
            .route(read().to(move |app: Service, caller: Caller, id: web::Path<String>| async move {
                collections::one(app, caller, collection, &id).await
            }))
            .route(patch().to(
                move |app: Service, caller: Caller, id: web::Path<String>, params: Params| async move {
                    vdis::patch(app, caller, collection, &id, params).await
                },
            ));
        match collection {
            Collection::Vdis => {
                all = all.route(post().to(vdis::create));
            }
            Collection::Srs => {
                all = all.route(post().to(srs::create));
                one = one.route(delete().to(delete_sr));
            }
            Collection::Vms => {
                all = all.route(post().to(vms::create));
            }
            Collection::Vbds => {
                all = all.route(post().to(vbds::create));
                one = one.route(delete().to(delete_vbd));
            }
            Collection::Vifs => {
                one = one.route(delete().to(delete_vif));
            }
            Collection::Networks => {
                one = one.route(delete().to(delete_network));
            }
            _ => {}
        }
        if matches!(collection, Collection::Vdis | Collection::VdiSnapshots) {
            one = one.route(delete().to(
                move |app: Service, caller: Caller, id: web::Path<String>| async move {
                    vdis::delete(app, caller, collection, &id).await
                },
            ));
        }
        if collection.holds_vms() {
            one = one.route(delete().to(
                move |app: Service, caller: Caller, id: web::Path<String>| async move {
                    vms::delete(app, caller, collection, &id).await
                },
            ));
        }
        config.service(all).service(one).service(resource(&format!("/rest/v0/{name}/{{id}}/tasks")).route(
            read().to(
                move |app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>| async move {
                    let id = id.into_inner();
                    collections::existing(&app, collection, &id).await?;
                    tasks::list(app, caller, request, Some(id)).await
                },
            ),
        ));
        for nothing in ["messages", "alarms"] {
            config.service(resource(&format!("/rest/v0/{name}/{{id}}/{nothing}")).route(read().to(
                move |app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>| async move {
                    collections::nothing_of(app, caller, request, collection, &id).await
                },
            )));
        }
        if !collection.has_actions() {
            config.service(resource(&format!("/rest/v0/{name}/{{id}}/actions")).route(read().to(
                move |app: Service, caller: Caller, id: web::Path<String>| async move {
                    collections::no_actions(app, caller, collection, &id).await
                },
            )));
        }
        if collection.is_labelled() {
            config.service(
                resource(&format!("/rest/v0/{name}/{{id}}/tags/{{tag}}"))
                    .route(put().to(
                        move |app: Service, caller: Caller, path: web::Path<(String, String)>| async move {
                            let (id, tag) = path.into_inner();
                            vdis::tag(app, caller, collection, &id, tag, true).await
                        },
                    ))
                    .route(delete().to(
                        move |app: Service, caller: Caller, path: web::Path<(String, String)>| async move {
                            let (id, tag) = path.into_inner();
                            vdis::tag(app, caller, collection, &id, tag, false).await
                        },
                    )),
            );
        }
    }
}

fn vms_of_all_kinds(config: &mut Router<'_>) {
    for collection in Collection::ALL.into_iter().filter(|one| one.holds_vms()) {
        let one = format!("/rest/v0/{}/{{id}}", collection.name());
        config
            .service(resource(&format!("{one}/vdis")).route(read().to(
                move |app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>| async move {
                    vms::disks(app, caller, request, collection, &id).await
                },
            )))
            .service(resource(&format!("{one}/actions")).route(read().to(
                move |app: Service, caller: Caller, id: web::Path<String>| async move {
                    vms::actions(app, caller, collection, &id).await
                },
            )))
            .service(
                resource(&format!("{one}/actions/{{action}}"))
                    .route(read().to(
                        move |app: Service, caller: Caller, path: web::Path<(String, String)>| async move {
                            let (id, name) = path.into_inner();
                            vms::action(app, caller, collection, &id, &name).await
                        },
                    ))
                    .route(post().to(
                        move |app: Service,
                              caller: Caller,
                              request: HttpRequest,
                              path: web::Path<(String, String)>,
                              params: Params| async move {
                            let (id, name) = path.into_inner();
                            vms::act(app, caller, request, collection, (&id, &name), params).await
                        },
                    )),
            );
    }
}

async fn audit_record(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    audit::one(app, caller, &id).await
}

async fn user(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    users::one(app, caller, &id).await
}

async fn change_user(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    id: web::Path<String>,
    params: Params,
) -> Answer {
    users::change(app, caller, request, &id, params).await
}

async fn delete_user(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    users::delete(app, caller, &id).await
}

async fn create_token_of_caller(app: Service, caller: Caller, params: Params) -> Answer {
    users::create_token(app, caller, None, params).await
}

async fn create_token(app: Service, caller: Caller, id: web::Path<String>, params: Params) -> Answer {
    users::create_token(app, caller, Some(&id), params).await
}

async fn list_tokens(app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>) -> Answer {
    users::list_tokens(app, caller, &id, Query::of(&request)?).await
}

async fn delete_token(app: Service, caller: Caller, path: web::Path<(String, String)>) -> Answer {
    let (id, token) = path.into_inner();
    users::delete_token(app, caller, &id, &token).await
}

async fn list_tasks(app: Service, caller: Caller, request: HttpRequest) -> Answer {
    tasks::list(app, caller, request, None).await
}

async fn task(app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>) -> Answer {
    tasks::one(app, caller, request, &id).await
}

async fn forget_task(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    tasks::forget(app, caller, &id).await
}

async fn adjust_task(app: Service, caller: Caller, id: web::Path<String>, params: Params) -> Answer {
    tasks::adjust(app, caller, &id, params).await
}

async fn task_actions(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    tasks::actions(app, caller, &id).await
}

async fn task_action(app: Service, caller: Caller, path: web::Path<(String, String)>) -> Answer {
    let (id, action) = path.into_inner();
    tasks::action(app, caller, &id, action).await
}

async fn act_on_task(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    params: Params,
) -> Answer {
    let (id, action) = path.into_inner();
    if matches!(action.as_str(), "abort" | "pause" | "resume") {
        params.nothing_else()?;
    }
    match action.as_str() {
        "abort" => tasks::abort(app, caller, request, &id).await,
        "pause" => tasks::pause(app, caller, request, &id, true).await,
        "resume" => tasks::pause(app, caller, request, &id, false).await,
        _ => Err(tasks::no_such_action(action)),
    }
}

async fn subscribe(app: Service, caller: Caller, id: web::Path<String>, params: Params) -> Answer {
    events::routes::subscribe(app, caller, &id, params).await
}

async fn unsubscribe(app: Service, caller: Caller, path: web::Path<(String, String)>) -> Answer {
    let (id, kind) = path.into_inner();
    events::routes::unsubscribe(app, caller, &id, &kind).await
}

async fn sr_actions(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    srs::actions(app, caller, &id).await
}

async fn sr_action(app: Service, caller: Caller, path: web::Path<(String, String)>) -> Answer {
    let (id, action) = path.into_inner();
    srs::action(app, caller, &id, action).await
}

async fn act_on_sr(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    params: Params,
) -> Answer {
    srs::act(app, caller, request, path.into_inner(), params).await
}

async fn vdi_actions(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    vdi_actions::list(app, caller, &id).await
}

async fn vdi_action(app: Service, caller: Caller, path: web::Path<(String, String)>) -> Answer {
    let (id, action) = path.into_inner();
    vdi_actions::describe(app, caller, &id, action).await
}

async fn act_on_vdi(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    params: Params,
) -> Answer {
    vdi_actions::act(app, caller, request, path.into_inner(), params).await
}

async fn delete_sr(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    srs::delete(app, caller, &id).await
}

async fn delete_vbd(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    vbds::delete(app, caller, &id).await
}

async fn delete_vif(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    networks::delete_vif(app, caller, &id).await
}

async fn delete_network(app: Service, caller: Caller, id: web::Path<String>) -> Answer {
    networks::delete(app, caller, &id).await
}

/// Refuses what has a dot in it and is no id with an extension: it names an object that there is not.
fn known_as_id(kind: &'static str, id: &str, extension: &str) -> Result<(), ApiError> {
    if uuid::Uuid::try_parse(id).is_ok() {
        return Ok(());
    }
    Err(ApiError::NoSuchObject { kind, id: format!("{id}.{extension}").chars().take(64).collect() })
}

async fn download(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Answer {
    let (id, extension) = path.into_inner();
    known_as_id("VDI", &id, &extension)?;
    let format: DiskFormat = extension.parse().map_err(|_| unknown_format(&extension))?;
    let snapshot = request.path().starts_with("/rest/v0/vdi-snapshots/");
    exports::serve_disk(app, caller, request, id, format, snapshot).await
}

async fn extents(app: Service, caller: Caller, request: HttpRequest, id: web::Path<String>) -> Answer {
    let snapshot = request.path().starts_with("/rest/v0/vdi-snapshots/");
    let collection = if snapshot { Collection::VdiSnapshots } else { Collection::Vdis };
    vdis::extents(app, caller, collection, &id, Query::of(&request)?).await
}

async fn upload_new(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
    id: web::Path<String>,
) -> Answer {
    imports::receive(app, caller, request, payload, UploadAddress::NewVdi(id.into_inner())).await
}

async fn upload_vm(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
    id: web::Path<String>,
) -> Answer {
    imports::receive(app, caller, request, payload, UploadAddress::NewVm(id.into_inner())).await
}

async fn upload_content(
    app: Service,
    caller: Caller,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<(String, String)>,
) -> Answer {
    let (id, extension) = path.into_inner();
    imports::receive(app, caller, request, payload, UploadAddress::Content { id, extension }).await
}

/// Whether some route takes a body at an address: what the hook for `Expect: 100-continue` has to know before
/// any route is looked for.
pub fn takes_body(method: &Method, path: &str) -> bool {
    if UploadAddress::of(method, path).is_some() {
        return true;
    }
    let Some(rest) = path.trim_end_matches('/').strip_prefix("/rest/v0/") else { return false };
    let segments: Vec<&str> = rest.split('/').collect();
    let known = |name: &str| Collection::named(name).is_some();
    match (method.as_str(), segments.as_slice()) {
        ("POST", ["vdis" | "srs" | "vms" | "vbds" | "users"] | ["users", "authentication_tokens"]) => true,
        ("POST", ["users", _, "authentication_tokens"]) | (_, ["users", "me", ..]) => true,
        ("POST", ["tasks" | "srs" | "vdis", _, "actions", _] | ["events", _, "subscriptions"]) => true,
        ("PATCH", ["tasks" | "users", _]) => true,
        ("POST", [name, _, "actions", _]) => Collection::named(name).is_some_and(Collection::holds_vms),
        ("PATCH", [name, _]) | ("PUT", [name, _, "tags", _]) => known(name),
        _ => false,
    }
}

/// Whether a method is the PATCH of one generation of clients.
pub fn is_lower_case_patch(method: &Method) -> bool {
    method.as_str() == "patch"
}
