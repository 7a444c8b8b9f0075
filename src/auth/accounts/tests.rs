use super::*;
use crate::auth::test_support::Place;
use crate::auth::{TokenRequest, create_token};

#[test]
fn a_name_has_1_to_128_characters_without_colons_and_controls() {
    let long = "ä".repeat(128);
    for name in ["a", "zoë", "a b", "alice@example.org", long.as_str()] {
        assert_eq!(name.parse::<UserName>().unwrap().as_str(), name);
    }
    for name in ["", "a:b", "a\nb", "a\u{7f}", "a\u{85}", &(long.clone() + "x")] {
        assert!(matches!(name.parse::<UserName>(), Err(AccountError::BadName { .. })), "{name:?}");
    }
}

#[tokio::test]
async fn a_name_is_given_once_and_its_owner_keeps_the_password() {
    let place = Place::new();
    let bob = place.user("bob", Role::Viewer, "geheim").await;
    let again = place.accounts.add(&"bob".parse().unwrap(), Role::Admin, "anders".to_owned()).await;
    assert!(matches!(again, Err(AccountError::NameTaken { name }) if name == "bob"));
    assert_eq!(place.accounts.list().await.unwrap(), [bob]);
}

#[tokio::test]
async fn a_password_that_is_empty_or_endless_is_refused() {
    let place = Place::new();
    let bob = place.user("bob", Role::Viewer, "geheim").await;
    for password in [String::new(), "x".repeat(1025)] {
        let outcome = place.accounts.set_password(bob.id, password.clone(), KeepTokens::All).await;
        assert!(matches!(outcome, Err(AccountError::BadPassword { found }) if found == password.len()));
        let outcome = place.accounts.add(&"eve".parse().unwrap(), Role::Viewer, password).await;
        assert!(matches!(outcome, Err(AccountError::BadPassword { .. })));
    }
    assert_eq!(place.accounts.list().await.unwrap(), [bob]);
}

#[tokio::test]
async fn a_new_password_ends_the_tokens_that_are_not_kept() {
    let place = Place::new();
    let bob = place.user("bob", Role::Viewer, "geheim").await;
    let mut families = Vec::new();
    for _ in 0..2 {
        let made = create_token(&place.db, bob.id, None, TokenRequest::default()).await.unwrap();
        families.push(made.record.family);
    }
    let set = |keep| place.accounts.set_password(bob.id, "anders".to_owned(), keep);
    assert_eq!(set(KeepTokens::All).await.unwrap(), []);
    assert_eq!(set(KeepTokens::Only(families[0])).await.unwrap(), [families[1]]);
    assert_eq!(set(KeepTokens::None).await.unwrap(), [families[0]]);
    assert_ne!(place.accounts.by_name("bob").await.unwrap().password_hash, bob.password_hash);
    let nobody = place.accounts.set_password(UserId::random(), "x".to_owned(), KeepTokens::All).await;
    assert!(matches!(nobody, Err(AccountError::NoSuchUser { .. })));
}

#[tokio::test]
async fn the_last_administrator_stays_one() {
    let place = Place::new();
    let (ann, bob) =
        (place.user("ann", Role::Admin, "geheim").await, place.user("bob", Role::Operator, "geheim").await);
    let removed = place.accounts.remove(ann.id).await;
    assert!(matches!(removed, Err(AccountError::LastAdmin { name }) if name == "ann"));
    assert!(matches!(
        place.accounts.set_role(ann.id, Role::Viewer).await,
        Err(AccountError::LastAdmin { .. })
    ));
    place.accounts.set_role(ann.id, Role::Admin).await.unwrap();
    place.accounts.set_role(bob.id, Role::Admin).await.unwrap();
    place.accounts.remove(ann.id).await.unwrap();
    assert!(matches!(place.accounts.remove(bob.id).await, Err(AccountError::LastAdmin { .. })));
    assert!(matches!(place.accounts.by_name("ann").await, Err(AccountError::NoSuchUser { .. })));
    assert!(matches!(place.accounts.remove(ann.id).await, Err(AccountError::NoSuchUser { .. })));
}

#[test]
fn made_up_passwords_are_long_and_never_the_same() {
    let (one, other) = (random_password().unwrap(), random_password().unwrap());
    assert_eq!((one.len(), other.len()), (24, 24));
    assert_ne!(one, other);
}
