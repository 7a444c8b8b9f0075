//! Tokens: what stands in for a password in a request. The secret itself is never stored, only its SHA-256.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StateError;
use crate::ids::{BadId, UserId};

/// A token's public id: the first 16 hex digits of its secret's SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        // what is no public id may be a secret, and those are not shown
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| BadId {
            what: "token id (16 hex digits)",
            text: format!("a text of {} characters", text.chars().count()),
        })
    }
}

impl Serialize for TokenId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The SHA-256 of a token's secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// The public id of the token that has this secret.
    pub fn id(&self) -> TokenId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        TokenId([a, b, c, d, e, f, g, h])
    }

    /// Whether both are equal, in a time that does not depend on where they differ.
    fn matches(&self, stored: &[u8]) -> bool {
        let difference = self.0.iter().zip(stored).fold(0, |found, (a, b)| found | (a ^ b));
        stored.len() == self.0.len() && std::hint::black_box(difference) == 0
    }
}

/// A part of a role to which a token can be limited; `auth` says what each holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reads metadata.
    Read,
    /// Reads metadata and disk content.
    Export,
    /// Makes and fills new objects.
    Import,
    /// All that the role holds.
    Admin,
}

impl Scope {
    /// Its name, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Export => "export",
            Self::Import => "import",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scope {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        [Self::Read, Self::Export, Self::Import, Self::Admin]
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| BadId {
                what: "scope (read, export, import or admin)",
                text: text.chars().take(64).collect(),
            })
    }
}

/// A token as stored, without its secret.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRecord {
    /// What it is called where the secret must not appear.
    pub id: TokenId,
    /// The public id of the record's first secret; stays when the record is renewed with a new one. What a token has
    /// begun is remembered by this.
    pub family: TokenId,
    /// Renewed: works until it expires, and is not listed.
    pub superseded: bool,
    /// Whose it is.
    pub user: UserId,
    /// When the record was made, Unix milliseconds; of a renewable one, when its present secret was.
    pub created_ms: i64,
    /// From when on it is worth nothing.
    pub expires_ms: i64,
    /// What it is for, in the user's words.
    pub description: Option<String>,
    /// The program that it was made for: a JSON object, mostly with an `id`.
    pub client: Option<Client>,
    /// The parts of the role that it holds; `None` = the whole role.
    pub scope: Option<BTreeSet<Scope>>,
    /// The objects that it can see; `None` = no such limit.
    pub objects: Option<BTreeSet<String>>,
    /// The SRs that it can see, with what lies in them; `None` = no such limit.
    pub srs: Option<BTreeSet<String>>,
    /// Whether the server renews it near its end, and tokens made with it may live longer than it does.
    pub renewable: bool,
    /// When it was last used, to the minute.
    pub last_used_ms: Option<i64>,
    /// From where it was last used.
    pub last_address: Option<String>,
}

/// The program that a token was made for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Its own name for itself; a token of the same user with the same one is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whatever else it says about itself.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

const COLUMNS: &str = "public_id, family, superseded, user_id, created_ms, expires_ms, description, client, \
     scope, objects, srs, renewable, last_used_ms, last_address, secret_hash";

fn parsed<T: FromStr>(what: &'static str, text: &str) -> Result<T, StateError> {
    text.parse().map_err(|_| StateError::corrupt(what, text))
}

fn decoded<T: serde::de::DeserializeOwned>(
    what: &'static str,
    text: Option<String>,
) -> Result<Option<T>, StateError> {
    text.map(|text| serde_json::from_str(&text).map_err(|_| StateError::corrupt(what, &text))).transpose()
}

fn encoded<T: Serialize>(what: &'static str, value: Option<&T>) -> Result<Option<String>, StateError> {
    value
        .map(|value| {
            serde_json::to_string(value).map_err(|error| StateError::corrupt(what, &error.to_string()))
        })
        .transpose()
}

fn from_row(row: &Row<'_>) -> Result<TokenRecord, StateError> {
    let text = |index| row.get::<_, String>(index);
    Ok(TokenRecord {
        id: parsed("tokens.public_id", &text(0)?)?,
        family: parsed("tokens.family", &text(1)?)?,
        superseded: row.get(2)?,
        user: parsed("tokens.user_id", &text(3)?)?,
        created_ms: row.get(4)?,
        expires_ms: row.get(5)?,
        description: row.get(6)?,
        client: decoded("tokens.client", row.get(7)?)?,
        scope: decoded("tokens.scope", row.get(8)?)?,
        objects: decoded("tokens.objects", row.get(9)?)?,
        srs: decoded("tokens.srs", row.get(10)?)?,
        renewable: row.get(11)?,
        last_used_ms: row.get(12)?,
        last_address: row.get(13)?,
    })
}

/// Stores a new token.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn insert(conn: &Connection, hash: &SecretHash, token: &TokenRecord) -> Result<(), StateError> {
    // destructured, so that a new field cannot be forgotten here
    let TokenRecord {
        id,
        family,
        superseded,
        user,
        created_ms,
        expires_ms,
        description,
        client,
        scope,
        objects,
        srs,
        renewable,
        last_used_ms,
        last_address,
    } = token;
    let sql = format!(
        "INSERT INTO tokens ({COLUMNS}, client_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
    );
    conn.execute(
        &sql,
        rusqlite::params![
            id.to_string(),
            family.to_string(),
            superseded,
            user.to_string(),
            created_ms,
            expires_ms,
            description,
            encoded("tokens.client", client.as_ref())?,
            encoded("tokens.scope", scope.as_ref())?,
            encoded("tokens.objects", objects.as_ref())?,
            encoded("tokens.srs", srs.as_ref())?,
            renewable,
            last_used_ms,
            last_address,
            hash.0.as_slice(),
            client.as_ref().and_then(|client| client.id.as_ref()),
        ],
    )?;
    Ok(())
}

/// The token with that secret, if it has not expired at `now_ms`.
///
/// It is looked up by the public id, which is no secret; the rest is compared in constant time.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn by_secret(
    conn: &Connection,
    hash: &SecretHash,
    now_ms: i64,
) -> Result<Option<TokenRecord>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE public_id = ?1 AND expires_ms > ?2");
    let found = conn
        .query_row(&sql, (hash.id().to_string(), now_ms), |row| {
            Ok((row.get::<_, Vec<u8>>(14)?, from_row(row)))
        })
        .optional()?;
    match found {
        Some((stored, record)) if hash.matches(&stored) => record.map(Some),
        _ => Ok(None),
    }
}

/// The token with that public id, expired or not.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, id: TokenId) -> Result<Option<TokenRecord>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE public_id = ?1");
    conn.query_row(&sql, [id.to_string()], |row| Ok(from_row(row))).optional()?.transpose()
}

/// The tokens that work at `now_ms`, of one user or of all, newest first; without those that were renewed.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn list(conn: &Connection, user: Option<UserId>, now_ms: i64) -> Result<Vec<TokenRecord>, StateError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tokens
         WHERE (?1 IS NULL OR user_id = ?1) AND expires_ms > ?2 AND NOT superseded
         ORDER BY created_ms DESC, public_id"
    );
    let mut query = conn.prepare(&sql)?;
    let rows = query.query_map((user.map(|user| user.to_string()), now_ms), |row| Ok(from_row(row)))?;
    rows.map(|row| row?).collect()
}

/// The user's token for that client which a new request renews.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn of_client(
    conn: &Connection,
    user: UserId,
    client_id: &str,
    now_ms: i64,
) -> Result<Option<TokenRecord>, StateError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tokens
         WHERE user_id = ?1 AND client_id = ?2 AND expires_ms > ?3 AND NOT superseded
         ORDER BY created_ms DESC LIMIT 1"
    );
    conn.query_row(&sql, (user.to_string(), client_id, now_ms), |row| Ok(from_row(row)))
        .optional()?
        .transpose()
}

/// Marks a token as renewed: from `until_ms` on, or from when it expires anyway, its secret is worth nothing.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn supersede(conn: &Connection, id: TokenId, until_ms: i64) -> Result<(), StateError> {
    conn.execute(
        "UPDATE tokens SET superseded = 1, expires_ms = min(expires_ms, ?2) WHERE public_id = ?1",
        (id.to_string(), until_ms),
    )?;
    Ok(())
}

/// Revokes a record with all its secrets, renewed ones included. Whether there was any.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete_family(conn: &Connection, family: TokenId) -> Result<bool, StateError> {
    Ok(conn.execute("DELETE FROM tokens WHERE family = ?1", [family.to_string()])? > 0)
}

/// Revokes all tokens of a user but those of one family. Returns the families that are gone.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete_of_user(
    conn: &Connection,
    user: UserId,
    except: Option<TokenId>,
) -> Result<BTreeSet<TokenId>, StateError> {
    let mut query = conn
        .prepare("DELETE FROM tokens WHERE user_id = ?1 AND (?2 IS NULL OR family <> ?2) RETURNING family")?;
    let rows = query.query_map((user.to_string(), except.map(|family| family.to_string())), |row| {
        row.get::<_, String>(0)
    })?;
    rows.map(|family| parsed("tokens.family", &family?)).collect()
}

/// Forgets what expired before a time. Returns how many.
///
/// That time should lie further back than transfers last: what is forgotten looks revoked ([`is_revoked`]), and a
/// transfer may outlive the token that began it.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete_expired(conn: &Connection, before_ms: i64) -> Result<usize, StateError> {
    Ok(conn.execute("DELETE FROM tokens WHERE expires_ms < ?1", [before_ms])?)
}

/// Notes that a token was used, unless that was noted at or after `unless_since_ms`.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn touch(
    conn: &Connection,
    id: TokenId,
    now_ms: i64,
    unless_since_ms: i64,
    address: &str,
) -> Result<(), StateError> {
    conn.execute(
        "UPDATE tokens SET last_used_ms = ?2, last_address = ?4
         WHERE public_id = ?1 AND (last_used_ms IS NULL OR last_used_ms < ?3)",
        (id.to_string(), now_ms, unless_since_ms, address),
    )?;
    Ok(())
}

/// Whether a record was revoked, by whatever process: what it has begun is then to be cut. One that has merely
/// expired was not.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn is_revoked(conn: &Connection, family: TokenId) -> Result<bool, StateError> {
    Ok(conn.query_row(
        "SELECT NOT EXISTS (SELECT 1 FROM tokens WHERE family = ?1)",
        [family.to_string()],
        |row| row.get(0),
    )?)
}

#[cfg(test)]
mod tests;
