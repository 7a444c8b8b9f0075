use super::*;
use crate::auth::test_support::Place;
use crate::auth::{Role, TokenRequest, Validity, create_token, revoke_token};
use crate::config::Span;

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// With a delay that no slow machine sits out; that it is two seconds is the throttle's own test.
fn authenticator(place: &Place) -> Authenticator {
    let config = config::Auth { failure_delay: Span::from_hours(1), ..config::Auth::default() };
    Authenticator::new(place.db.clone(), place.passwords.clone(), &config)
}

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Password { user: user.to_owned(), password: password.to_owned() }
}

#[tokio::test]
async fn a_password_and_a_token_lead_to_the_same_user() {
    let place = Place::new();
    let bob = place.user("bob", Role::Operator, "geheim").await;
    let auth = authenticator(&place);
    let by_password = auth.authenticate(password("bob", "geheim"), HOME).await.unwrap();
    assert_eq!((by_password.user, by_password.role, by_password.token), (bob.id, Role::Operator, None));
    let issued = create_token(&place.db, bob.id, None, TokenRequest::default()).await.unwrap();
    let by_token = auth.authenticate(Credentials::Token(issued.secret), HOME).await.unwrap();
    assert_eq!((by_token.user, by_token.name.as_str()), (bob.id, "bob"));
    assert_eq!(by_token.token.map(|token| token.id), Some(issued.record.id));
}

#[tokio::test]
async fn wrong_passwords_unknown_names_and_unknown_tokens_are_all_the_same() {
    let place = Place::new();
    let bob = place.user("bob", Role::Admin, "geheim").await;
    let auth = authenticator(&place);
    let issued = create_token(&place.db, bob.id, None, TokenRequest::default()).await.unwrap();
    revoke_token(&place.db, Some(bob.id), issued.record.id).await.unwrap().unwrap();
    for credentials in [
        password("bob", "Geheim"),
        password("eve", "geheim"),
        Credentials::Token(String::new()),
        Credentials::Token(issued.record.id.to_string()),
        Credentials::Token(issued.secret),
    ] {
        let outcome = auth.authenticate(credentials.clone(), HOME).await;
        assert!(matches!(outcome, Err(AuthError::Invalid)), "{credentials:?}");
    }
}

#[tokio::test]
async fn after_a_failure_every_password_for_that_name_is_refused_but_tokens_are_not() {
    let place = Place::new();
    let bob = place.user("bob", Role::Admin, "geheim").await;
    place.user("eve", Role::Viewer, "anders").await;
    let auth = authenticator(&place);
    let issued = create_token(&place.db, bob.id, None, TokenRequest::default()).await.unwrap();
    auth.authenticate(password("bob", "falsch"), HOME).await.unwrap_err();
    match auth.authenticate(password("bob", "geheim"), HOME).await {
        Err(AuthError::TooFast { retry_after }) => {
            assert!(retry_after <= Duration::from_secs(3600) && !retry_after.is_zero(), "{retry_after:?}");
        }
        other => panic!("{other:?}"),
    }
    auth.authenticate(Credentials::Token(issued.secret), HOME).await.unwrap();
    auth.authenticate(password("eve", "anders"), HOME).await.unwrap();
    let clone = auth.clone();
    assert!(matches!(
        clone.check_password("bob".to_owned(), "geheim".to_owned(), HOME).await,
        Err(AuthError::TooFast { .. })
    ));
}

#[tokio::test]
async fn without_a_delay_the_right_password_works_at_once_after_a_wrong_one() {
    let place = Place::new();
    place.user("bob", Role::Admin, "geheim").await;
    let config = config::Auth { failure_delay: Span::from_secs(0), failures_per_address: 2 };
    let auth = Authenticator::new(place.db.clone(), place.passwords.clone(), &config);
    auth.authenticate(password("bob", "falsch"), HOME).await.unwrap_err();
    auth.authenticate(password("bob", "geheim"), HOME).await.unwrap();
    auth.authenticate(password("eve", "falsch"), HOME).await.unwrap_err();
    let refused = auth.authenticate(password("bob", "geheim"), HOME).await;
    assert!(matches!(refused, Err(AuthError::TooFast { .. })), "{refused:?}");
    let elsewhere = "192.0.2.2".parse().unwrap();
    auth.authenticate(password("bob", "geheim"), elsewhere).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_guesses_gets_no_more_than_two_looked_at() {
    let place = Place::new();
    place.user("bob", Role::Admin, "geheim").await;
    let auth = authenticator(&place);
    let guess = |n: usize| {
        let auth = auth.clone();
        tokio::spawn(async move { auth.authenticate(password("bob", &format!("guess {n}")), HOME).await })
    };
    let guesses: Vec<_> = (0..20).map(guess).collect();
    let mut looked_at = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            Err(AuthError::Invalid) => looked_at += 1,
            Err(AuthError::TooFast { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((1..=2).contains(&looked_at), "{looked_at}");
}

#[tokio::test]
async fn parallel_requests_with_the_right_password_all_succeed() {
    let place = Place::new();
    place.user("bob", Role::Admin, "geheim").await;
    let auth = authenticator(&place);
    let ask = |_| {
        let auth = auth.clone();
        tokio::spawn(async move { auth.authenticate(password("bob", "geheim"), HOME).await })
    };
    let asked: Vec<_> = (0..6).map(ask).collect();
    for answer in asked {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_expired_token_is_worth_nothing_and_a_removed_users_neither() {
    let place = Place::new();
    let bob = place.user("bob", Role::Admin, "geheim").await;
    let eve = place.user("eve", Role::Viewer, "anders").await;
    let auth = authenticator(&place);
    let minute = Validity::from_ms(60_000).unwrap();
    let request = TokenRequest { expires_in: Some(minute), ..TokenRequest::default() };
    let short = create_token(&place.db, bob.id, None, request.clone()).await.unwrap();
    auth.authenticate(Credentials::Token(short.secret.clone()), HOME).await.unwrap();
    let id = short.record.id;
    place.db.transaction(move |transaction| tokens::supersede(transaction, id, now_ms())).await.unwrap();
    let expired = auth.authenticate(Credentials::Token(short.secret), HOME).await;
    assert!(matches!(expired, Err(AuthError::Invalid)));
    let hers = create_token(&place.db, eve.id, None, request).await.unwrap();
    assert_eq!(place.accounts.remove(eve.id).await.unwrap(), [hers.record.family]);
    let removed = auth.authenticate(Credentials::Token(hers.secret), HOME).await;
    assert!(matches!(removed, Err(AuthError::Invalid)));
}

#[tokio::test]
async fn a_tokens_use_is_noted_with_the_address_and_not_again_within_a_minute() {
    let place = Place::new();
    let bob = place.user("bob", Role::Admin, "geheim").await;
    let auth = authenticator(&place);
    let issued = create_token(&place.db, bob.id, None, TokenRequest::default()).await.unwrap();
    let id = issued.record.id;
    let before = now_ms();
    auth.authenticate(Credentials::Token(issued.secret.clone()), HOME).await.unwrap();
    // the thread works in order: what was posted is written when this answers
    let stored = || place.db.call(move |conn| tokens::get(conn, id));
    let first = stored().await.unwrap().unwrap();
    assert!(first.last_used_ms.unwrap() >= before);
    assert_eq!(first.last_address.as_deref(), Some("192.0.2.1"));
    auth.authenticate(Credentials::Token(issued.secret), "192.0.2.2".parse().unwrap()).await.unwrap();
    assert_eq!(stored().await.unwrap().unwrap(), first);
}
