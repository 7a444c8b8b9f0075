use super::*;
use crate::auth::test_support::Place;
use crate::auth::{Role, User};

// Tests write what they ask for as JSON; clients' JSON is read member by member, in `rest`.
impl<'de> serde::Deserialize<'de> for Validity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_json(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn request(json: &str) -> TokenRequest {
    serde_json::from_str(json).unwrap()
}

async fn bob(place: &Place) -> User {
    place.user("bob", Role::Admin, "geheim").await
}

async fn make(
    place: &Place,
    user: &User,
    maker: Option<&TokenRecord>,
    json: &str,
) -> Result<IssuedToken, TokenError> {
    create_token(&place.db, user.id, maker.cloned(), request(json)).await
}

async fn by_secret(place: &Place, secret: &str, now_ms: i64) -> Option<TokenRecord> {
    let hash = SecretHash::of(secret);
    place.db.call(move |conn| tokens::by_secret(conn, &hash, now_ms)).await.unwrap()
}

async fn listed(place: &Place) -> Vec<TokenRecord> {
    place.db.call(|conn| tokens::list(conn, None, now_ms())).await.unwrap()
}

#[tokio::test]
async fn a_token_is_43_characters_of_base64url_and_valid_for_30_days() {
    let place = Place::new();
    let bob = bob(&place).await;
    let issued = make(&place, &bob, None, "{}").await.unwrap();
    assert_eq!(issued.secret.len(), 43);
    assert!(issued.secret.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_eq!(issued.record.expires_ms - issued.record.created_ms, 30 * 86_400_000);
    assert_eq!(by_secret(&place, &issued.secret, now_ms()).await.as_ref(), Some(&issued.record));
    assert_eq!(listed(&place).await, [issued.record]);
    let other = make(&place, &bob, None, "{}").await.unwrap();
    assert_ne!(other.secret, issued.secret);
}

#[test]
fn expires_in_is_a_number_of_milliseconds_or_a_duration() {
    for (json, ms) in [
        ("3600000", 3_600_000),
        ("3600000.0", 3_600_000),
        ("\"3600000\"", 3_600_000),
        ("\"1 hour\"", 3_600_000),
        ("\"2 weeks\"", 1_209_600_000),
        ("\"30d\"", 2_592_000_000),
        ("60000", MIN_VALIDITY_MS),
        ("15778800000", MAX_VALIDITY_MS),
    ] {
        let read: Validity = serde_json::from_str(json).unwrap();
        assert_eq!(read.ms(), ms, "{json}");
    }
    for json in
        ["59999", "15778800001", "-1", "0", "1e300", "\"1 year\"", "\"soon\"", "\"59s\"", "true", "[]"]
    {
        assert!(serde_json::from_str::<Validity>(json).is_err(), "{json}");
    }
}

#[test]
fn a_request_with_an_unknown_member_is_refused() {
    assert!(serde_json::from_str::<TokenRequest>(r#"{"expires": 1}"#).is_err());
    assert!(serde_json::from_str::<TokenRequest>(r#"{"scope": ["everything"]}"#).is_err());
    let full = request(
        r#"{"client": {"id": "c", "name": "n"}, "description": "d", "expiresIn": "1 hour",
            "scope": ["read", "import"], "objects": ["o"], "srs": ["s"], "renewable": true}"#,
    );
    assert_eq!(full.scope, Some([Scope::Read, Scope::Import].into()));
    assert_eq!(full.client.unwrap().id.as_deref(), Some("c"));
    assert_eq!(request(r#"{"description": null}"#), TokenRequest::default());
}

#[tokio::test]
async fn what_no_token_can_be_is_refused_by_its_member() {
    let place = Place::new();
    let bob = bob(&place).await;
    let long = "x".repeat(5000);
    for (json, member) in [
        (r#"{"scope": []}"#.to_owned(), "scope"),
        (r#"{"objects": []}"#.to_owned(), "objects"),
        (r#"{"srs": []}"#.to_owned(), "srs"),
        (r#"{"client": {"id": ""}}"#.to_owned(), "client.id"),
        (format!(r#"{{"description": "{long}"}}"#), "description"),
        (format!(r#"{{"client": {{"id": "{long}"}}}}"#), "client"),
        (format!(r#"{{"objects": ["{long}"]}}"#), "objects"),
    ] {
        let error = make(&place, &bob, None, &json).await.err().unwrap().to_string();
        assert!(error.starts_with(&format!("{member}: ")), "{error}");
    }
    assert_eq!(listed(&place).await, []);
}

#[tokio::test]
async fn a_known_client_gets_its_record_renewed_and_the_old_secret_works_five_minutes_more() {
    let place = Place::new();
    let bob = bob(&place).await;
    let json = r#"{"client": {"id": "c"}, "description": "first", "scope": ["export"]}"#;
    let old = make(&place, &bob, None, json).await.unwrap();
    let json = r#"{"client": {"id": "c"}, "description": "second", "expiresIn": "1h"}"#;
    let new = make(&place, &bob, None, json).await.unwrap();
    assert_ne!(new.secret, old.secret);
    assert_eq!(new.record.family, old.record.family);
    assert_eq!(new.record.created_ms, old.record.created_ms);
    assert_eq!(new.record.description.as_deref(), Some("second"));
    assert_eq!(new.record.scope, old.record.scope, "a renewal widened the scope");
    assert_eq!(listed(&place).await, std::slice::from_ref(&new.record));
    let now = now_ms();
    assert!(by_secret(&place, &old.secret, now).await.is_some());
    assert!(by_secret(&place, &old.secret, now + RENEWAL_GRACE_MS).await.is_none());
    assert!(by_secret(&place, &new.secret, now + RENEWAL_GRACE_MS).await.is_some());
    // the old secret still names the record
    let family = revoke_token(&place.db, Some(bob.id), token_id_of(&old.secret).unwrap()).await.unwrap();
    assert_eq!(family, Some(old.record.family));
    assert!(by_secret(&place, &new.secret, now).await.is_none());
}

#[tokio::test]
async fn another_user_or_no_client_id_renews_nothing() {
    let place = Place::new();
    let bob = bob(&place).await;
    let eve = place.user("eve", Role::Viewer, "anders").await;
    let json = r#"{"client": {"id": "c"}}"#;
    make(&place, &bob, None, json).await.unwrap();
    make(&place, &eve, None, json).await.unwrap();
    make(&place, &bob, None, r#"{"client": {"name": "c"}}"#).await.unwrap();
    make(&place, &bob, None, r#"{"client": {"name": "c"}}"#).await.unwrap();
    assert_eq!(listed(&place).await.len(), 4);
}

#[tokio::test]
async fn no_token_makes_a_stronger_one() {
    let place = Place::new();
    let bob = bob(&place).await;
    let maker = |json| make(&place, &bob, None, json);
    let export = maker(r#"{"scope": ["export"]}"#).await.unwrap().record;
    let limited = maker(r#"{"objects": ["a", "b"], "srs": ["s"]}"#).await.unwrap().record;
    let objects = maker(r#"{"objects": ["a"]}"#).await.unwrap().record;
    for (maker, json, member) in [
        (&export, r#"{"scope": ["admin"]}"#, "scope"),
        (&export, r#"{"scope": ["export", "import"]}"#, "scope"),
        (&limited, r#"{"objects": ["a", "c"]}"#, "objects"),
        (&limited, r#"{"srs": ["t"]}"#, "srs"),
        (&objects, r#"{"srs": ["s"]}"#, "srs"),
    ] {
        let error = make(&place, &bob, Some(maker), json).await.err().unwrap();
        assert!(
            matches!(error, TokenError::Stronger { member: found } if found == member),
            "{json}: {error}"
        );
    }
    for (maker, json) in [
        (&export, r#"{"scope": ["read"]}"#),
        (&export, r#"{"objects": ["a"]}"#),
        (&limited, r#"{"objects": ["a"], "scope": ["admin"]}"#),
        (&limited, r#"{"srs": ["s"]}"#),
    ] {
        let made = make(&place, &bob, Some(maker), json).await.unwrap().record;
        assert!(not_stronger(&made, maker).is_ok(), "{json}");
    }
}

#[tokio::test]
async fn what_a_request_leaves_out_comes_from_the_token_that_makes_it() {
    let place = Place::new();
    let bob = bob(&place).await;
    let json = r#"{"scope": ["read"], "objects": ["a"], "srs": ["s"]}"#;
    let maker = make(&place, &bob, None, json).await.unwrap().record;
    let made = make(&place, &bob, Some(&maker), "{}").await.unwrap().record;
    assert_eq!((made.scope, made.objects, made.srs), (maker.scope, maker.objects, maker.srs));
}

#[tokio::test]
async fn a_weak_token_cannot_renew_a_stronger_one() {
    let place = Place::new();
    let bob = bob(&place).await;
    let strong = make(&place, &bob, None, r#"{"client": {"id": "c"}}"#).await.unwrap();
    let weak = make(&place, &bob, None, r#"{"scope": ["read"]}"#).await.unwrap().record;
    let stolen = make(&place, &bob, Some(&weak), r#"{"client": {"id": "c"}}"#).await;
    assert!(matches!(stolen, Err(TokenError::Stronger { member: "scope" })));
    assert_eq!(by_secret(&place, &strong.secret, now_ms()).await, Some(strong.record));
}

#[tokio::test]
async fn a_limited_tokens_tokens_outlive_it_only_if_it_is_renewable() {
    let place = Place::new();
    let bob = bob(&place).await;
    let json = r#"{"scope": ["read"], "expiresIn": "1h"}"#;
    let maker = make(&place, &bob, None, json).await.unwrap().record;
    let made = make(&place, &bob, Some(&maker), r#"{"renewable": true}"#).await.unwrap().record;
    assert_eq!((made.expires_ms, made.renewable), (maker.expires_ms, false));
    let json = r#"{"scope": ["read"], "expiresIn": "1h", "renewable": true}"#;
    let maker = make(&place, &bob, None, json).await.unwrap().record;
    let made = make(&place, &bob, Some(&maker), "{}").await.unwrap().record;
    assert_eq!(made.expires_ms - made.created_ms, DEFAULT_VALIDITY_MS);
    let whole = make(&place, &bob, None, r#"{"expiresIn": "1h"}"#).await.unwrap().record;
    let made = make(&place, &bob, Some(&whole), "{}").await.unwrap().record;
    assert_eq!(made.expires_ms - made.created_ms, DEFAULT_VALIDITY_MS);
}

#[tokio::test]
async fn a_token_is_revoked_by_its_owner_or_in_nobodys_name_and_once() {
    let place = Place::new();
    let bob = bob(&place).await;
    let eve = place.user("eve", Role::Admin, "anders").await;
    let issued = make(&place, &bob, None, "{}").await.unwrap();
    let id = issued.record.id;
    assert_eq!(revoke_token(&place.db, Some(eve.id), id).await.unwrap(), None);
    assert_eq!(revoke_token(&place.db, None, id).await.unwrap(), Some(id));
    assert_eq!(revoke_token(&place.db, None, id).await.unwrap(), None);
    assert!(by_secret(&place, &issued.secret, now_ms()).await.is_none());
}

#[test]
fn a_token_is_named_by_its_public_id_or_by_its_secret() {
    let secret = URL_SAFE_NO_PAD.encode([7; SECRET_BYTES]);
    let id = SecretHash::of(&secret).id();
    assert_eq!(token_id_of(&secret), Some(id));
    assert_eq!(token_id_of(&id.to_string()), Some(id));
    assert_eq!(token_id_of("neither"), None);
    assert_eq!(token_id_of(""), None);
}

#[test]
fn a_renewable_token_is_due_in_the_last_quarter_of_its_validity() {
    let id = SecretHash::of("x").id();
    let mut token = TokenRecord {
        id,
        family: id,
        superseded: false,
        user: UserId::random(),
        created_ms: 1000,
        expires_ms: 5000,
        description: None,
        client: None,
        scope: None,
        objects: None,
        srs: None,
        renewable: true,
        last_used_ms: None,
        last_address: None,
    };
    assert!(!is_due(&token, 3999));
    assert!(is_due(&token, 4000));
    token.superseded = true;
    assert!(!is_due(&token, 4000), "it was renewed");
    (token.superseded, token.renewable) = (false, false);
    assert!(!is_due(&token, 4000), "it was not made so");
}

#[tokio::test]
async fn of_those_who_renew_at_the_same_time_one_is_answered_and_the_old_secret_works_on() {
    let place = Place::new();
    let bob = bob(&place).await;
    let json = r#"{"renewable": true, "description": "d", "scope": ["read"], "client": {"id": "c"}}"#;
    let old = make(&place, &bob, None, json).await.unwrap();
    assert!(renew_token(&place.db, old.record.id).await.unwrap().is_none(), "it is not due");
    let (id, age) = (old.record.id.to_string(), DEFAULT_VALIDITY_MS * 3 / 4 + 1000);
    let aging =
        "UPDATE tokens SET created_ms = created_ms - ?2, expires_ms = expires_ms - ?2 WHERE public_id = ?1";
    place.db.transaction(move |tx| Ok(tx.execute(aging, (&id, age))?)).await.unwrap();
    let (one, other) =
        tokio::join!(renew_token(&place.db, old.record.id), renew_token(&place.db, old.record.id));
    let mut renewed: Vec<_> = [one.unwrap(), other.unwrap()].into_iter().flatten().collect();
    assert_eq!(renewed.len(), 1);
    let new = renewed.remove(0);
    assert_ne!(new.secret, old.secret);
    assert_eq!(new.record.family, old.record.family);
    assert_eq!((new.record.scope, new.record.description), (old.record.scope, old.record.description));
    assert_eq!(new.record.expires_ms - new.record.created_ms, DEFAULT_VALIDITY_MS);
    let now = now_ms();
    assert!(by_secret(&place, &old.secret, now).await.is_some());
    assert!(by_secret(&place, &old.secret, now + RENEWAL_GRACE_MS + 1).await.is_none());
    assert_eq!(listed(&place).await.len(), 1);
}
