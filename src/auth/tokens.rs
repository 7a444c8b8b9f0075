//! Making, renewing and revoking tokens.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::Connection;
use serde_json::Value;

use super::rights::scope_within;
use crate::config::{BadValue, parse_duration};
use crate::ids::UserId;
use crate::state::tokens::{Client, Scope, SecretHash, TokenId, TokenRecord};
use crate::state::{Db, StateError, now_ms, tokens};

/// How long a token is valid unless told: 30 days, in milliseconds.
pub const DEFAULT_VALIDITY_MS: i64 = 30 * 86_400_000;

/// The shortest validity: a minute, in milliseconds.
pub const MIN_VALIDITY_MS: i64 = 60_000;

/// The longest validity: half a year of 365.25 days, in milliseconds.
pub const MAX_VALIDITY_MS: i64 = 15_778_800_000;

/// How long the old secret of a renewed token works on, in milliseconds.
pub const RENEWAL_GRACE_MS: i64 = 5 * 60_000;

/// Random bytes of a secret; base64url makes 43 characters of them.
const SECRET_BYTES: usize = 32;

/// Characters of a description.
const MAX_DESCRIPTION_CHARS: usize = 1024;

/// Bytes of a client, as JSON.
const MAX_CLIENT_BYTES: usize = 4096;

/// Ids in a list of objects or SRs, and characters of each.
const MAX_IDS: usize = 1000;
const MAX_ID_CHARS: usize = 64;

/// A token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No duration.
    #[error("expiresIn: {0}")]
    Form(#[from] BadValue),
    /// Too short or too long.
    #[error(
        "expiresIn: {found_ms} ms is not between a minute and half a year ({MIN_VALIDITY_MS}..={MAX_VALIDITY_MS} ms)"
    )]
    Validity {
        /// What was asked for, in milliseconds.
        found_ms: i64,
    },
    /// A member is empty, too long or holds what it must not.
    #[error("{member}: {found} of at most {most} {unit}")]
    TooLong {
        /// The member.
        member: &'static str,
        /// Its length.
        found: usize,
        /// The longest that is taken.
        most: usize,
        /// What was counted.
        unit: &'static str,
    },
    /// A list that would allow nothing.
    #[error("{member}: must not be empty; without it there is no such limit")]
    Empty {
        /// The member.
        member: &'static str,
    },
    /// It would allow more than the token with which it is made.
    #[error("{member}: a token cannot make one that is stronger than itself")]
    Stronger {
        /// The member that is too wide.
        member: &'static str,
    },
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The state database failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl TokenError {
    /// The member of the request that is at fault.
    pub fn member(&self) -> Option<&'static str> {
        match self {
            Self::Form(_) | Self::Validity { .. } => Some("expiresIn"),
            Self::TooLong { member, .. } | Self::Empty { member } | Self::Stronger { member } => Some(member),
            Self::Random(_) | Self::State(_) => None,
        }
    }

    /// What is wrong, for those who are told the member beside it.
    pub fn told(&self) -> String {
        let text = self.to_string();
        let prefix = self.member().map(|member| format!("{member}: ")).unwrap_or_default();
        text.strip_prefix(&prefix).map(str::to_owned).unwrap_or(text)
    }
}

/// How long a token is to be valid, as clients say it: milliseconds as a number, or a text such as `"1 hour"`,
/// `"2 weeks"`, `"30d"`. A text of digits alone is milliseconds too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    ms: i64,
}

impl Validity {
    /// So many milliseconds.
    ///
    /// # Errors
    /// [`TokenError::Validity`] outside of a minute to half a year.
    pub fn from_ms(ms: i64) -> Result<Self, TokenError> {
        if (MIN_VALIDITY_MS..=MAX_VALIDITY_MS).contains(&ms) {
            Ok(Self { ms })
        } else {
            Err(TokenError::Validity { found_ms: ms })
        }
    }

    /// The number of milliseconds.
    pub fn ms(self) -> i64 {
        self.ms
    }
}

impl std::str::FromStr for Validity {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let ms = match text.trim().parse::<i64>() {
            Ok(ms) => ms,
            Err(_) => i64::try_from(parse_duration(text)?.as_millis()).unwrap_or(i64::MAX),
        };
        Self::from_ms(ms)
    }
}

impl Validity {
    /// As a client's JSON has it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_json(value: &Value) -> Result<Self, String> {
        let read = match value {
            Value::Number(number) => match number.as_i64() {
                Some(ms) => Self::from_ms(ms),
                // a cast from a float saturates, and what is no number becomes 0: both are out of bounds
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "fractions of a millisecond do not count"
                )]
                None => Self::from_ms(number.as_f64().unwrap_or(f64::NAN) as i64),
            },
            Value::String(text) => text.parse(),
            _ => {
                let wanted = "a number of milliseconds or a text such as \"30 days\" is needed";
                return Err(format!("invalid duration: {wanted}"));
            }
        };
        read.map_err(|error| error.told())
    }
}

/// What is asked for. All members may be left out.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(test, derive(serde::Deserialize))]
#[cfg_attr(test, serde(deny_unknown_fields, rename_all = "camelCase", default))]
pub struct TokenRequest {
    /// The program that it is for. If it has an id that the user has a token for, that one is renewed.
    pub client: Option<Client>,
    /// What it is for, in the user's words.
    pub description: Option<String>,
    /// How long; 30 days unless told.
    pub expires_in: Option<Validity>,
    /// The parts of the role that it holds.
    pub scope: Option<BTreeSet<Scope>>,
    /// The only objects that it sees.
    pub objects: Option<BTreeSet<String>>,
    /// The only SRs that it sees, with what lies in them.
    pub srs: Option<BTreeSet<String>>,
    /// Whether the server renews it by itself, and limited tokens made with it may outlive it.
    pub renewable: Option<bool>,
}

/// A token that was just made: the only time that its secret is known.
pub struct IssuedToken {
    /// The secret, 43 characters of base64url.
    pub secret: String,
    /// Everything else.
    pub record: TokenRecord,
}

/// Makes a token for a user, or renews the one of the same client. `maker` is the token with which it is made;
/// `None` stands for a password or for the command line.
///
/// What the request leaves out comes from the token that is renewed, else from the maker. The result allows nothing
/// that the maker does not; if the maker is limited (in scope, objects or SRs) and not renewable, it does not live
/// longer either.
///
/// # Errors
/// [`TokenError`]; then nothing has changed.
pub async fn create_token(
    db: &Db,
    user: UserId,
    maker: Option<TokenRecord>,
    request: TokenRequest,
) -> Result<IssuedToken, TokenError> {
    check(&request)?;
    let (secret, hash) = new_secret()?;
    let now = now_ms();
    let record = db
        .transaction(move |transaction| issue(transaction, user, maker.as_ref(), &request, &hash, now))
        .await??;
    Ok(IssuedToken { secret, record })
}

/// Whether a token that is shown is to be renewed now: it was made so, and is in the last quarter of its validity.
pub fn is_due(token: &TokenRecord, now_ms: i64) -> bool {
    let validity = token.expires_ms.saturating_sub(token.created_ms);
    token.renewable && !token.superseded && token.expires_ms.saturating_sub(now_ms) <= validity / 4
}

/// Gives a token that is due another secret, valid for as long as the old one was; the old one works for a few more
/// minutes. `None` if it is not due any more: of those who ask at the same time, one is answered.
///
/// # Errors
/// [`TokenError::Random`], [`TokenError::State`].
pub async fn renew_token(db: &Db, id: TokenId) -> Result<Option<IssuedToken>, TokenError> {
    let (secret, hash) = new_secret()?;
    let now = now_ms();
    let renewed = db.transaction(move |transaction| {
        let found =
            tokens::get(transaction, id)?.filter(|token| token.expires_ms > now && is_due(token, now));
        let Some(old) = found else { return Ok(None) };
        let validity_ms = old.expires_ms.saturating_sub(old.created_ms);
        let new = TokenRecord {
            id: hash.id(),
            created_ms: now,
            expires_ms: now.saturating_add(validity_ms),
            ..old
        };
        tokens::supersede(transaction, id, now.saturating_add(RENEWAL_GRACE_MS))?;
        tokens::insert(transaction, &hash, &new)?;
        Ok(Some(new))
    });
    Ok(renewed.await?.map(|record| IssuedToken { secret, record }))
}

/// A secret that nobody knows yet.
fn new_secret() -> Result<(String, SecretHash), getrandom::Error> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes)?;
    let secret = URL_SAFE_NO_PAD.encode(bytes);
    let hash = SecretHash::of(&secret);
    Ok((secret, hash))
}

/// Revokes a token with all secrets that its record has had, if it is that user's (`None`: whoever's it is). Returns
/// its family, by which what it has begun can be found and cut; `None` if there is no such token.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub async fn revoke_token(db: &Db, user: Option<UserId>, id: TokenId) -> Result<Option<TokenId>, StateError> {
    db.transaction(move |transaction| {
        let found = tokens::get(transaction, id)?;
        let Some(token) = found.filter(|token| user.is_none_or(|user| user == token.user)) else {
            return Ok(None);
        };
        tokens::delete_family(transaction, token.family)?;
        Ok(Some(token.family))
    })
    .await
}

/// The public id that a client means: the id itself, or that of a secret. `None` if it is neither.
pub fn token_id_of(text: &str) -> Option<TokenId> {
    if let Ok(id) = text.parse() {
        return Some(id);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.len() == SECRET_BYTES).then(|| SecretHash::of(text).id())
}

/// Refuses what no token can be.
fn check(request: &TokenRequest) -> Result<(), TokenError> {
    let bounded = |member, found, most, unit| {
        if found > most { Err(TokenError::TooLong { member, found, most, unit }) } else { Ok(()) }
    };
    if let Some(description) = &request.description {
        bounded("description", description.chars().count(), MAX_DESCRIPTION_CHARS, "characters")?;
    }
    if let Some(client) = &request.client {
        // what cannot be encoded is counted as too long
        let bytes = serde_json::to_string(client).map_or(usize::MAX, |json| json.len());
        bounded("client", bytes, MAX_CLIENT_BYTES, "bytes")?;
        if client.id.as_deref() == Some("") {
            return Err(TokenError::Empty { member: "client.id" });
        }
    }
    if request.scope.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(TokenError::Empty { member: "scope" });
    }
    for (member, ids) in [("objects", &request.objects), ("srs", &request.srs)] {
        let Some(ids) = ids else { continue };
        if ids.is_empty() {
            return Err(TokenError::Empty { member });
        }
        bounded(member, ids.len(), MAX_IDS, "ids")?;
        let longest = ids.iter().map(|id| id.chars().count()).max().unwrap_or(0);
        bounded(member, longest, MAX_ID_CHARS, "characters in an id")?;
    }
    Ok(())
}

/// The token in the database; a refusal has written nothing.
fn issue(
    conn: &Connection,
    user: UserId,
    maker: Option<&TokenRecord>,
    request: &TokenRequest,
    hash: &SecretHash,
    now_ms: i64,
) -> Result<Result<TokenRecord, TokenError>, StateError> {
    let client_id = request.client.as_ref().and_then(|client| client.id.as_deref());
    let renewed = match client_id {
        Some(client_id) => tokens::of_client(conn, user, client_id, now_ms)?,
        None => None,
    };
    let base = renewed.as_ref().or(maker);
    let (objects, srs) = if request.objects.is_none() && request.srs.is_none() {
        base.map(|base| (base.objects.clone(), base.srs.clone())).unwrap_or_default()
    } else {
        (request.objects.clone(), request.srs.clone())
    };
    let validity_ms = request.expires_in.map_or(DEFAULT_VALIDITY_MS, Validity::ms);
    let renewable = request.renewable.unwrap_or_else(|| renewed.as_ref().is_some_and(|old| old.renewable));
    let mut record = TokenRecord {
        id: hash.id(),
        family: renewed.as_ref().map_or(hash.id(), |old| old.family),
        superseded: false,
        user,
        // of one that the server renews, this says how long its present secret is valid altogether
        created_ms: renewed.as_ref().filter(|_| !renewable).map_or(now_ms, |old| old.created_ms),
        expires_ms: now_ms.saturating_add(validity_ms),
        description: request
            .description
            .clone()
            .or_else(|| renewed.as_ref().and_then(|old| old.description.clone())),
        client: request.client.clone(),
        scope: request.scope.clone().or_else(|| base.and_then(|base| base.scope.clone())),
        objects,
        srs,
        renewable,
        last_used_ms: renewed.as_ref().and_then(|old| old.last_used_ms),
        last_address: renewed.as_ref().and_then(|old| old.last_address.clone()),
    };
    if let Some(maker) = maker {
        if let Err(stronger) = not_stronger(&record, maker) {
            return Ok(Err(stronger));
        }
        if is_narrowed(maker) && !maker.renewable {
            record.expires_ms = record.expires_ms.min(maker.expires_ms);
            record.renewable = false;
        }
    }
    if let Some(old) = &renewed {
        tokens::supersede(conn, old.id, now_ms.saturating_add(RENEWAL_GRACE_MS))?;
    }
    tokens::insert(conn, hash, &record)?;
    Ok(Ok(record))
}

fn is_narrowed(token: &TokenRecord) -> bool {
    token.scope.is_some() || token.objects.is_some() || token.srs.is_some()
}

/// Whether `token` allows nothing that its maker does not.
fn not_stronger(token: &TokenRecord, maker: &TokenRecord) -> Result<(), TokenError> {
    if !scope_within(token.scope.as_ref(), maker.scope.as_ref()) {
        return Err(TokenError::Stronger { member: "scope" });
    }
    if maker.objects.is_none() && maker.srs.is_none() {
        return Ok(());
    }
    if token.objects.is_none() && token.srs.is_none() {
        return Err(TokenError::Stronger { member: "objects" });
    }
    let within = |narrow: &Option<BTreeSet<String>>, wide: &Option<BTreeSet<String>>| match (narrow, wide) {
        (None, _) => true,
        (Some(narrow), Some(wide)) => narrow.is_subset(wide),
        (Some(_), None) => false,
    };
    if !within(&token.objects, &maker.objects) {
        return Err(TokenError::Stronger { member: "objects" });
    }
    if !within(&token.srs, &maker.srs) {
        return Err(TokenError::Stronger { member: "srs" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
