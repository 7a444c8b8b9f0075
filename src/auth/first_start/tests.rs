use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::auth::test_support::Place;
use crate::auth::{AuthError, Authenticator, Credentials, KeepTokens};
use crate::config;

async fn start(place: &Place, source: AdminPasswordSource) -> Result<FirstStart, AccountError> {
    ensure_admin(&place.data, &place.db, &place.passwords, &source).await
}

fn given(password: &str) -> AdminPasswordSource {
    AdminPasswordSource { password: Some(OsString::from(password)), file: None }
}

async fn logs_in(place: &Place, password: &str) -> bool {
    let auth = Authenticator::new(place.db.clone(), place.passwords.clone(), &config::Auth::default());
    let credentials = Credentials::Password { user: "admin".to_owned(), password: password.to_owned() };
    match auth.authenticate(credentials, "127.0.0.1".parse().unwrap()).await {
        Ok(principal) => {
            assert_eq!(principal.role, Role::Admin);
            true
        }
        Err(AuthError::Invalid) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_first_start_makes_up_a_password_and_keeps_it_until_it_is_changed() {
    let place = Place::new();
    let FirstStart::MadeUp { password, path } = start(&place, AdminPasswordSource::default()).await.unwrap()
    else {
        panic!("no password was made up");
    };
    assert_eq!(path, place.path("admin-password"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{password}\n"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(logs_in(&place, &password).await);

    assert!(start(&place, given("other")).await.unwrap() == FirstStart::Existing);
    assert!(logs_in(&place, &password).await);

    let admin = place.accounts.by_name("admin").await.unwrap();
    place.user("bob", Role::Admin, "geheim").await;
    let bob = place.accounts.by_name("bob").await.unwrap();
    place.accounts.set_password(bob.id, "x".to_owned(), KeepTokens::None).await.unwrap();
    assert!(path.exists(), "another user's password is not this one");
    place.accounts.set_password(admin.id, "mine".to_owned(), KeepTokens::None).await.unwrap();
    assert!(!path.exists());
    assert!(logs_in(&place, "mine").await);
}

#[tokio::test]
async fn a_password_from_the_environment_is_taken_and_kept_nowhere() {
    let place = Place::new();
    let started = start(&place, given("geheim")).await.unwrap();
    assert!(started == FirstStart::Given && started.notice().is_none());
    assert!(logs_in(&place, "geheim").await);
    assert!(!place.path("admin-password").exists());
}

#[tokio::test]
async fn a_password_from_a_file_is_taken_without_its_line_end() {
    let place = Place::new();
    let file = place.path("secret");
    std::fs::write(&file, "ge heim \r\n").unwrap();
    let source = AdminPasswordSource { password: None, file: Some(file) };
    assert!(start(&place, source).await.unwrap() == FirstStart::Given);
    assert!(logs_in(&place, "ge heim ").await);
}

#[tokio::test]
async fn a_password_that_cannot_be_had_stops_the_first_start_and_no_later_one() {
    let place = Place::new();
    let missing = AdminPasswordSource { password: None, file: Some(place.path("missing")) };
    assert!(matches!(start(&place, missing.clone()).await, Err(AccountError::File { .. })));
    let file = place.path("empty");
    std::fs::write(&file, "\n").unwrap();
    let empty = AdminPasswordSource { password: None, file: Some(file) };
    assert!(matches!(start(&place, empty).await, Err(AccountError::BadPassword { found: 0 })));
    assert_eq!(place.accounts.list().await.unwrap(), []);
    start(&place, given("geheim")).await.unwrap();
    assert!(start(&place, missing).await.unwrap() == FirstStart::Existing);
}

#[tokio::test]
async fn two_first_starts_at_once_make_one_admin_with_the_password_in_the_file() {
    let place = Place::new();
    let none = AdminPasswordSource::default();
    let other = Db::open(&place.data.database_path()).unwrap();
    let (one, two) = tokio::join!(
        ensure_admin(&place.data, &place.db, &place.passwords, &none),
        ensure_admin(&place.data, &other, &place.passwords, &none),
    );
    let made: Vec<_> = [one.unwrap(), two.unwrap()].iter().filter_map(FirstStart::notice).collect();
    assert_eq!(made.len(), 1);
    let kept = std::fs::read_to_string(place.path("admin-password")).unwrap();
    assert!(made[0].contains(kept.trim_end()), "{made:?}");
    assert!(logs_in(&place, kept.trim_end()).await);
}

#[tokio::test]
async fn an_admin_who_was_removed_does_not_come_back() {
    let place = Place::new();
    start(&place, given("geheim")).await.unwrap();
    place.user("bob", Role::Admin, "geheim").await;
    let admin = place.accounts.by_name("admin").await.unwrap();
    place.accounts.remove(admin.id).await.unwrap();
    assert!(start(&place, given("geheim")).await.unwrap() == FirstStart::Existing);
    assert_eq!(place.accounts.list().await.unwrap().len(), 1);
}
