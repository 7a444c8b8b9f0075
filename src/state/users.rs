//! Who may log in.

use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::ids::{BadId, UserId};

/// What a user may do at most; `auth` says what each role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads metadata, no disk content.
    Viewer,
    /// Also exports, imports, changes and deletes VMs and VDIs, runs and aborts transfers.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Its name, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.name() == text).ok_or_else(
            || BadId { what: "role (admin, operator or viewer)", text: text.chars().take(64).collect() },
        )
    }
}

/// A user as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Never changes.
    pub id: UserId,
    /// What one logs in with; unique, letter case counts.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// The password's argon2id hash, a PHC string.
    pub password_hash: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // without the hash: it would be material for guessing
        f.debug_struct("User")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

const COLUMNS: &str = "id, name, role, password_hash, created_ms";

fn from_row(row: &Row<'_>) -> Result<User, StateError> {
    let id: String = row.get(0)?;
    let role: String = row.get(2)?;
    Ok(User {
        id: id.parse().map_err(|_| StateError::corrupt("users.id", &id))?,
        name: row.get(1)?,
        role: role.parse().map_err(|_| StateError::corrupt("users.role", &role))?,
        password_hash: row.get(3)?,
        created_ms: row.get(4)?,
    })
}

fn one(conn: &Connection, condition: &str, value: &str) -> Result<Option<User>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE {condition} = ?1");
    conn.query_row(&sql, [value], |row| Ok(from_row(row))).optional()?.transpose()
}

/// Adds a user. `false`, and nothing written, when the name is taken.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn insert(conn: &Connection, user: &User) -> Result<bool, StateError> {
    let written = conn.execute(
        "INSERT INTO users (id, name, role, password_hash, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO NOTHING",
        (user.id.to_string(), &user.name, user.role.name(), &user.password_hash, user.created_ms),
    )?;
    Ok(written > 0)
}

/// The user with that id.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, id: UserId) -> Result<Option<User>, StateError> {
    one(conn, "id", &id.to_string())
}

/// The user with that name.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn by_name(conn: &Connection, name: &str) -> Result<Option<User>, StateError> {
    one(conn, "name", name)
}

/// All users, by name.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn list(conn: &Connection) -> Result<Vec<User>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM users ORDER BY name");
    let mut query = conn.prepare(&sql)?;
    let rows = query.query_map([], |row| Ok(from_row(row)))?;
    rows.map(|row| row?).collect()
}

/// Whether anybody but that user has the role.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn others_have_role(conn: &Connection, role: Role, except: UserId) -> Result<bool, StateError> {
    Ok(conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM users WHERE role = ?1 AND id <> ?2)",
        (role.name(), except.to_string()),
        |row| row.get(0),
    )?)
}

/// Whether there is no user at all: the state of a first start.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn is_empty(conn: &Connection) -> Result<bool, StateError> {
    Ok(conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM users)", [], |row| row.get(0))?)
}

/// Gives a user another password hash. Whether there is such a user.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn set_password_hash(conn: &Connection, id: UserId, hash: &str) -> Result<bool, StateError> {
    Ok(conn.execute("UPDATE users SET password_hash = ?2 WHERE id = ?1", (id.to_string(), hash))? > 0)
}

/// Gives a user another role. Whether there is such a user.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn set_role(conn: &Connection, id: UserId, role: Role) -> Result<bool, StateError> {
    Ok(conn.execute("UPDATE users SET role = ?2 WHERE id = ?1", (id.to_string(), role.name()))? > 0)
}

/// Removes a user with all tokens. Whether there was one.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete(conn: &Connection, id: UserId) -> Result<bool, StateError> {
    Ok(conn.execute("DELETE FROM users WHERE id = ?1", [id.to_string()])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    fn user(name: &str, role: Role) -> User {
        User {
            id: UserId::random(),
            name: name.to_owned(),
            role,
            password_hash: "$x".to_owned(),
            created_ms: 1,
        }
    }

    #[test]
    fn a_user_is_found_by_id_and_by_name_and_a_name_is_given_once() {
        let conn = memory();
        assert!(is_empty(&conn).unwrap());
        let (bob, other) = (user("bob", Role::Operator), user("bob", Role::Admin));
        assert!(insert(&conn, &bob).unwrap());
        assert!(!insert(&conn, &other).unwrap());
        assert!(!is_empty(&conn).unwrap());
        assert_eq!(get(&conn, bob.id).unwrap(), Some(bob.clone()));
        assert_eq!(by_name(&conn, "bob").unwrap(), Some(bob));
        assert_eq!(by_name(&conn, "Bob").unwrap(), None);
        assert_eq!(get(&conn, other.id).unwrap(), None);
    }

    #[test]
    fn changes_are_stored_and_users_listed_by_name() {
        let conn = memory();
        let (zoe, bob) = (user("zoe", Role::Admin), user("bob", Role::Viewer));
        insert(&conn, &zoe).unwrap();
        insert(&conn, &bob).unwrap();
        assert!(!others_have_role(&conn, Role::Admin, zoe.id).unwrap());
        assert!(set_role(&conn, bob.id, Role::Admin).unwrap());
        assert!(others_have_role(&conn, Role::Admin, zoe.id).unwrap());
        assert!(set_password_hash(&conn, bob.id, "$y").unwrap());
        let names: Vec<_> =
            list(&conn).unwrap().into_iter().map(|user| (user.name, user.role, user.password_hash)).collect();
        let expected = [("bob", Role::Admin, "$y"), ("zoe", Role::Admin, "$x")];
        assert_eq!(names, expected.map(|(name, role, hash)| (name.to_owned(), role, hash.to_owned())));
        assert!(delete(&conn, bob.id).unwrap() && !delete(&conn, bob.id).unwrap());
        assert!(!set_role(&conn, bob.id, Role::Admin).unwrap());
    }

    #[test]
    fn a_role_that_this_version_does_not_know_is_an_error_and_no_role() {
        let conn = memory();
        let bob = user("bob", Role::Viewer);
        insert(&conn, &bob).unwrap();
        conn.execute("UPDATE users SET role = 'emperor'", []).unwrap();
        let error = get(&conn, bob.id).unwrap_err();
        assert!(matches!(error, StateError::Corrupt { what: "users.role", .. }), "{error}");
    }

    #[test]
    fn the_password_hash_is_not_shown() {
        assert!(!format!("{:?}", user("bob", Role::Viewer)).contains("$x"));
    }
}
