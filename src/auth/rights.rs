//! What a user may do: the role gives, the token's scope takes away, and its lists of objects and SRs say on what.

use std::collections::BTreeSet;

use crate::ids::UserId;
use crate::state::tokens::{Scope, TokenRecord};
use crate::state::users::Role;

/// One kind of thing that somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// Read metadata.
    Read,
    /// Read disk content, or ask for its digest.
    Export,
    /// Make new VMs and VDIs and fill them.
    Import,
    /// Change and delete VMs and VDIs.
    Change,
    /// Abort, pause, resume and tune transfers.
    Control,
    /// Users, SRs, pools, servers, configuration, audit.
    Administer,
}

impl Capability {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Export => "export",
            Self::Import => "import",
            Self::Change => "change",
            Self::Control => "control",
            Self::Administer => "administer",
        }
    }
}

const ALL: [Capability; 6] = [
    Capability::Read,
    Capability::Export,
    Capability::Import,
    Capability::Change,
    Capability::Control,
    Capability::Administer,
];

impl Role {
    /// Whether the role holds it.
    pub fn holds(self, capability: Capability) -> bool {
        match self {
            Self::Viewer => capability == Capability::Read,
            Self::Operator => capability != Capability::Administer,
            Self::Admin => true,
        }
    }

    /// The contract's `permission` of a user with this role.
    pub fn permission(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator | Self::Viewer => "none",
        }
    }
}

impl Scope {
    /// Whether a token with this scope keeps it, if its user's role holds it. Who may begin transfers may also stop
    /// them.
    pub fn keeps(self, capability: Capability) -> bool {
        match self {
            Self::Read => capability == Capability::Read,
            Self::Export => {
                matches!(capability, Capability::Read | Capability::Export | Capability::Control)
            }
            Self::Import => matches!(capability, Capability::Import | Capability::Control),
            Self::Admin => true,
        }
    }
}

/// Whether a token with these scopes keeps a capability; none at all is the whole role.
fn kept(scope: Option<&BTreeSet<Scope>>, capability: Capability) -> bool {
    scope.is_none_or(|scope| scope.iter().any(|part| part.keeps(capability)))
}

/// Whether whoever has the scopes `narrow` may do nothing that `wide` does not allow.
pub(super) fn scope_within(narrow: Option<&BTreeSet<Scope>>, wide: Option<&BTreeSet<Scope>>) -> bool {
    ALL.into_iter().all(|capability| !kept(narrow, capability) || kept(wide, capability))
}

/// Somebody may not do what they asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough privileges: needs {}", missing.name())]
pub struct Forbidden {
    /// What it would have needed.
    pub missing: Capability,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// The user's role.
    pub role: Role,
    /// The token that was shown; `None` for a password.
    pub token: Option<TokenRecord>,
}

impl Principal {
    /// Whether role and scope hold it. A token that is limited to objects or SRs administers nothing.
    pub fn may(&self, capability: Capability) -> bool {
        let scope = self.token.as_ref().and_then(|token| token.scope.as_ref());
        let limited = self.is_limited() && capability == Capability::Administer;
        self.role.holds(capability) && kept(scope, capability) && !limited
    }

    /// The same as a result.
    ///
    /// # Errors
    /// [`Forbidden`] if it may not.
    pub fn require(&self, capability: Capability) -> Result<(), Forbidden> {
        if self.may(capability) { Ok(()) } else { Err(Forbidden { missing: capability }) }
    }

    /// Whether it may revoke a token of its own user's, or of anybody's if it administers. One that holds a part of
    /// what its user may do would else end what is stronger than itself.
    pub fn may_revoke(&self, other: &TokenRecord) -> bool {
        let narrowed = self
            .token
            .as_ref()
            .filter(|token| token.scope.is_some() || token.objects.is_some() || token.srs.is_some());
        self.may(Capability::Administer) || narrowed.is_none_or(|token| token.family == other.family)
    }

    /// Whether the token sees only some objects.
    pub fn is_limited(&self) -> bool {
        self.token.as_ref().is_some_and(|token| token.objects.is_some() || token.srs.is_some())
    }

    /// Whether the object is one that the token sees: it is listed itself, or it is or lies in a listed SR (`sr`:
    /// where it lies, if it does).
    pub fn sees(&self, object: &str, sr: Option<&str>) -> bool {
        self.sees_part(object, None, sr.map(str::to_owned).as_slice())
    }

    /// Whether the object is one that the token sees: it is listed itself, or `owner` is, of which it is a part; or it
    /// lies in SRs, and each of these is listed.
    pub fn sees_part(&self, object: &str, owner: Option<&str>, srs: &[String]) -> bool {
        let Some(token) = self.token.as_ref().filter(|_| self.is_limited()) else { return true };
        let listed =
            |list: &Option<BTreeSet<String>>, id: &str| list.as_ref().is_some_and(|ids| ids.contains(id));
        listed(&token.objects, object)
            || listed(&token.srs, object)
            || owner.is_some_and(|owner| listed(&token.objects, owner))
            || (!srs.is_empty() && srs.iter().all(|sr| listed(&token.srs, sr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tokens::SecretHash;

    fn token(scope: Option<&[Scope]>, objects: Option<&[&str]>, srs: Option<&[&str]>) -> TokenRecord {
        let ids = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let id = SecretHash::of("x").id();
        TokenRecord {
            id,
            family: id,
            superseded: false,
            user: UserId::random(),
            created_ms: 0,
            expires_ms: 1,
            description: None,
            client: None,
            scope: scope.map(|scope| scope.iter().copied().collect()),
            objects: objects.map(ids),
            srs: srs.map(ids),
            renewable: false,
            last_used_ms: None,
            last_address: None,
        }
    }

    fn principal(role: Role, token: Option<TokenRecord>) -> Principal {
        Principal { user: UserId::random(), name: "x".to_owned(), role, token }
    }

    fn held(principal: &Principal) -> Vec<&'static str> {
        ALL.into_iter().filter(|capability| principal.may(*capability)).map(Capability::name).collect()
    }

    #[test]
    fn each_role_holds_what_the_table_of_roles_says() {
        assert_eq!(held(&principal(Role::Viewer, None)), ["read"]);
        assert_eq!(held(&principal(Role::Operator, None)), ["read", "export", "import", "change", "control"]);
        assert_eq!(held(&principal(Role::Admin, None)).len(), ALL.len());
        assert_eq!(Role::Admin.permission(), "admin");
        assert_eq!(Role::Operator.permission(), "none");
    }

    #[test]
    fn a_scope_narrows_the_role_and_never_widens_it() {
        let with = |role, scope: &[Scope]| held(&principal(role, Some(token(Some(scope), None, None))));
        assert_eq!(with(Role::Admin, &[Scope::Read]), ["read"]);
        assert_eq!(with(Role::Admin, &[Scope::Export]), ["read", "export", "control"]);
        assert_eq!(with(Role::Admin, &[Scope::Import]), ["import", "control"]);
        assert_eq!(with(Role::Admin, &[Scope::Admin]).len(), ALL.len());
        assert_eq!(with(Role::Viewer, &[Scope::Admin]), ["read"]);
        assert_eq!(with(Role::Viewer, &[Scope::Export]), ["read"]);
        assert!(with(Role::Viewer, &[Scope::Import]).is_empty());
        assert_eq!(held(&principal(Role::Operator, Some(token(None, None, None)))).len(), 5);
    }

    #[test]
    fn a_limited_token_sees_its_objects_and_what_lies_in_its_srs_and_administers_nothing() {
        let free = principal(Role::Admin, Some(token(None, None, None)));
        assert!(free.sees("anything", None) && !free.is_limited());
        let limited = principal(Role::Admin, Some(token(None, Some(&["vdi-1"]), Some(&["sr-1"]))));
        assert!(limited.sees("vdi-1", Some("sr-2")));
        assert!(limited.sees("vdi-2", Some("sr-1")));
        assert!(limited.sees("sr-1", None));
        assert!(!limited.sees("vdi-2", Some("sr-2")));
        assert!(!limited.sees("sr-2", None));
        assert_eq!(
            limited.require(Capability::Administer),
            Err(Forbidden { missing: Capability::Administer })
        );
        assert_eq!(limited.require(Capability::Change), Ok(()));
    }

    #[test]
    fn a_limited_token_sees_a_part_of_its_objects_and_what_lies_wholly_in_its_srs() {
        let limited = principal(Role::Admin, Some(token(None, Some(&["vm-1"]), Some(&["sr-1", "sr-2"]))));
        let srs = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(limited.sees_part("vm-1", None, &srs(&["sr-3"])));
        assert!(limited.sees_part("vbd", Some("vm-1"), &[]));
        assert!(limited.sees_part("vm-2", None, &srs(&["sr-1", "sr-2"])));
        assert!(!limited.sees_part("vm-2", None, &srs(&["sr-1", "sr-3"])));
        assert!(!limited.sees_part("vm-2", None, &[]), "one without disks lies nowhere");
        assert!(!limited.sees_part("vbd", Some("vm-2"), &[]));
    }

    #[test]
    fn scopes_compare_by_what_they_allow() {
        let set = |scope: &[Scope]| scope.iter().copied().collect::<BTreeSet<_>>();
        let (read, export) = (set(&[Scope::Read]), set(&[Scope::Export]));
        let (both, admin) = (set(&[Scope::Read, Scope::Import]), set(&[Scope::Admin]));
        assert!(scope_within(Some(&read), Some(&export)));
        assert!(!scope_within(Some(&export), Some(&read)));
        assert!(!scope_within(Some(&both), Some(&export)));
        assert!(!scope_within(None, Some(&export)));
        assert!(scope_within(None, Some(&admin)) && scope_within(Some(&admin), None));
    }
}
