//! Which requests are written down, and as what.

use actix_web::http::Method;

use crate::auth;
use crate::auth::audit::Object;
use crate::inventory::Collection;
use crate::state::users;

use super::super::App;
use super::super::query::Query;

/// The longest part of an address that is taken over.
const MAX_ID_CHARS: usize = 64;

/// What a request does that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The word for it: `vdi.delete`.
    pub name: String,
    /// What it is done to.
    pub object: Object,
    /// It reads: only a refusal is written down before it has begun.
    pub reads: bool,
}

fn action(kind: &str, word: &str, id: Option<&str>) -> Action {
    let id = id.map(|id| id.chars().take(MAX_ID_CHARS).collect());
    Action {
        name: format!("{}.{word}", kind.to_ascii_lowercase()),
        object: Object { kind: kind.to_owned(), id, name: None },
        reads: false,
    }
}

impl Action {
    /// What a request does. `path` is as the router sees it, decoded: one that is written in another way is no other
    /// request.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_end_matches('/').strip_prefix("/rest/v0/")?.split('/').collect();
        match (method.as_str(), segments.as_slice()) {
            // These are redirections only.
            (_, ["users", "me", ..]) => None,
            ("POST", ["users", "authentication_tokens"] | ["users", _, "authentication_tokens"]) => {
                Some(action("token", "create", None))
            }
            ("DELETE", ["users", _, "authentication_tokens", token]) => {
                // Never what was sent, which may be the secret.
                let id = auth::token_id_of(token).map(|id| id.to_string());
                Some(action("token", "revoke", id.as_deref()))
            }
            ("POST", ["users"]) => Some(action("user", "create", None)),
            ("PATCH", ["users", id]) => Some(action("user", "update", Some(id))),
            ("DELETE", ["users", id]) => Some(action("user", "delete", Some(id))),
            ("DELETE", ["tasks"]) => Some(action("task", "delete", None)),
            ("DELETE", ["tasks", id]) => Some(action("task", "delete", Some(id))),
            ("POST", ["tasks", id, "actions", "abort"]) => Some(action("task", "abort", Some(id))),
            ("POST", ["srs"]) => Some(action("SR", "create", None)),
            ("POST", ["srs", id, "actions", "forget"]) => Some(action("SR", "forget", Some(id))),
            ("POST", ["srs", _, "vdis"]) => Some(action("VDI", "import", None)),
            ("POST", ["pools", _, "vms"]) => Some(action("VM", "import", None)),
            ("PUT", ["vdis", file]) => Some(action("VDI", "replace", Some(file.rsplit_once('.')?.0))),
            ("POST", [collection, id, "actions", word @ ("snapshot" | "migrate")]) => {
                Some(action(Collection::named(collection)?.kind(), word, Some(id)))
            }
            ("DELETE", [collection, id]) => {
                let collection = Collection::named(collection)?;
                let deletes = collection.holds_vms()
                    || matches!(
                        collection,
                        Collection::Vdis
                            | Collection::VdiSnapshots
                            | Collection::Srs
                            | Collection::Vbds
                            | Collection::Networks
                    );
                deletes.then(|| action(collection.kind(), "delete", Some(id)))
            }
            ("GET", [collection, file]) => {
                let (id, extension) = file.rsplit_once('.')?;
                let collection = Collection::named(collection)?;
                let disk = matches!(collection, Collection::Vdis | Collection::VdiSnapshots);
                let exports = match extension {
                    "vhd" | "raw" => disk,
                    "xva" => collection.holds_vms(),
                    _ => false,
                };
                exports.then(|| Self { reads: true, ..action(collection.kind(), "export", Some(id)) })
            }
            _ => None,
        }
    }

    /// Looks up what people call the object; for what is about to be made, what the request says.
    pub async fn named(mut self, app: &App, query: &str) -> Self {
        let Object { kind, id, .. } = &self.object;
        self.object.name = match (kind.as_str(), id) {
            (_, None) => {
                let query = Query::parse(query).ok();
                query.and_then(|query| query.text("name_label").ok().flatten().map(str::to_owned))
            }
            ("user", Some(id)) => match id.parse() {
                Ok(id) => {
                    let user = app.store.db().call(move |db| users::get(db, id)).await;
                    user.ok().flatten().map(|user| user.name)
                }
                Err(_) => None,
            },
            (kind, Some(id)) => match Collection::ALL.into_iter().find(|one| one.kind() == kind) {
                Some(collection) => object_name(app, collection, id).await,
                None => None,
            },
        };
        self.object.name = self.object.name.map(|name| name.chars().take(256).collect());
        self
    }
}

/// What people call an object, if it is there.
pub async fn object_name(app: &App, collection: Collection, id: &str) -> Option<String> {
    let placed = app.inventory.object(collection, id).await.ok()??;
    Some(placed.object.get("name_label")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, path: &str) -> Option<(String, Option<String>)> {
        let action = Action::of(&method.parse().unwrap(), &format!("/rest/v0/{path}"))?;
        Some((action.name, action.object.id))
    }

    #[test]
    fn what_changes_much_or_reads_disks_is_written_down() {
        for (method, path, name, id) in [
            ("POST", "users/authentication_tokens", "token.create", None),
            ("POST", "users/x/authentication_tokens/", "token.create", None),
            (
                "DELETE",
                "users/x/authentication_tokens/0123456789abcdef",
                "token.revoke",
                Some("0123456789abcdef"),
            ),
            ("DELETE", "users/x/authentication_tokens/nonsense", "token.revoke", None),
            ("POST", "users", "user.create", None),
            ("PATCH", "users/x", "user.update", Some("x")),
            ("DELETE", "users/x", "user.delete", Some("x")),
            ("DELETE", "vdis/x", "vdi.delete", Some("x")),
            ("DELETE", "vdi-snapshots/x/", "vdi-snapshot.delete", Some("x")),
            ("DELETE", "vms/x", "vm.delete", Some("x")),
            ("DELETE", "vm-snapshots/x", "vm-snapshot.delete", Some("x")),
            ("DELETE", "srs/x", "sr.delete", Some("x")),
            ("DELETE", "vbds/x", "vbd.delete", Some("x")),
            ("DELETE", "networks/x", "network.delete", Some("x")),
            ("DELETE", "tasks/x", "task.delete", Some("x")),
            ("DELETE", "tasks", "task.delete", None),
            ("POST", "tasks/x/actions/abort", "task.abort", Some("x")),
            ("POST", "srs", "sr.create", None),
            ("POST", "srs/x/actions/forget", "sr.forget", Some("x")),
            ("POST", "srs/x/vdis", "vdi.import", None),
            ("POST", "pools/x/vms", "vm.import", None),
            ("PUT", "vdis/x.vhd", "vdi.replace", Some("x")),
            ("POST", "vdis/x/actions/snapshot", "vdi.snapshot", Some("x")),
            ("POST", "vms/x/actions/snapshot", "vm.snapshot", Some("x")),
            ("POST", "vdis/x/actions/migrate", "vdi.migrate", Some("x")),
            ("GET", "vdis/x.raw", "vdi.export", Some("x")),
            ("GET", "vms/x.xva", "vm.export", Some("x")),
        ] {
            let expected = Some((name.to_owned(), id.map(str::to_owned)));
            assert_eq!(of(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for (method, path) in [
            ("GET", "vdis"),
            ("GET", "vdis/x"),
            ("HEAD", "vdis/x.raw"),
            ("GET", "hosts/x.raw"),
            ("PATCH", "vdis/x"),
            ("PUT", "vdis/x/tags/a"),
            ("DELETE", "vdis/x/tags/a"),
            ("POST", "tasks/x/actions/pause"),
            ("POST", "users/me/authentication_tokens"),
        ] {
            assert_eq!(of(method, path), None, "{method} {path}");
        }
        assert_eq!(Action::of(&Method::DELETE, "/vdis/x"), None);
    }

    #[test]
    fn the_secret_of_a_token_is_not_written_down() {
        let secret = "A".repeat(43);
        let (_, id) = of("DELETE", &format!("users/x/authentication_tokens/{secret}")).unwrap();
        assert_eq!(id.map(|id| id.len()), Some(16));
    }
}
