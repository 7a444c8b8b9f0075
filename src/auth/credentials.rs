//! The two headers in which a request carries its credentials (contract: the table of §2).

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Clients pad or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What somebody shows to prove who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A token's secret.
    Token(String),
    /// A name with its password.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(…)"),
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
        }
    }
}

/// Headers from which no credentials can be read. The messages are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    /// A cookie and an `Authorization` header (400).
    #[error("Having multiple authentication methods is not supported, please choose one")]
    Multiple,
    /// An `Authorization` header without a space (400).
    #[error("Malformed Authorization header")]
    Malformed,
    /// A scheme that nobody knows, or what cannot be a name with a password (401).
    #[error("invalid credentials")]
    Invalid,
}

/// The credentials of a request with these `Cookie` headers and this `Authorization` header; `None` if it carries
/// none.
///
/// # Errors
/// [`CredentialProblem`].
pub fn credentials_from<'a>(
    cookies: impl IntoIterator<Item = &'a str>,
    authorization: Option<&str>,
) -> Result<Option<Credentials>, CredentialProblem> {
    let cookie = token_cookie(cookies);
    match (cookie, authorization) {
        (Some(_), Some(_)) => Err(CredentialProblem::Multiple),
        (Some(token), None) => Ok(Some(Credentials::Token(token.to_owned()))),
        (None, Some(header)) => from_authorization(header).map(Some),
        (None, None) => Ok(None),
    }
}

/// The value of `authenticationToken`, else that of `token`. The first of its name wins.
fn token_cookie<'a>(cookies: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut fallback = None;
    for (name, value) in
        cookies.into_iter().flat_map(|header| header.split(';')).filter_map(|pair| pair.split_once('='))
    {
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value);
        match name.trim() {
            "authenticationToken" => return Some(value),
            "token" if fallback.is_none() => fallback = Some(value),
            _ => {}
        }
    }
    fallback
}

fn from_authorization(header: &str) -> Result<Credentials, CredentialProblem> {
    let (scheme, value) = header.trim_start().split_once(' ').ok_or(CredentialProblem::Malformed)?;
    let value = value.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Token(value.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(CredentialProblem::Invalid);
    }
    let bytes = BASE64.decode(value).map_err(|_| CredentialProblem::Invalid)?;
    let text = String::from_utf8(bytes).map_err(|_| CredentialProblem::Invalid)?;
    let (user, password) = text.split_once(':').ok_or(CredentialProblem::Invalid)?;
    Ok(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(text: &str) -> Result<Option<Credentials>, CredentialProblem> {
        Ok(Some(Credentials::Token(text.to_owned())))
    }

    fn password(user: &str, password: &str) -> Result<Option<Credentials>, CredentialProblem> {
        Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }))
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", BASE64.encode(text))
    }

    #[test]
    fn the_cookie_authentication_token_wins_over_the_cookie_token() {
        assert_eq!(credentials_from(["token=a; authenticationToken=b"], None), token("b"));
        assert_eq!(credentials_from(["lang=en; token=a"], None), token("a"));
        assert_eq!(credentials_from(["x=1", "authenticationToken=\"b\""], None), token("b"));
        assert_eq!(credentials_from(["token=a;token=b"], None), token("a"));
        assert_eq!(credentials_from(["tokens=a; Token=b"], None), Ok(None));
        assert_eq!(credentials_from([], None), Ok(None));
    }

    #[test]
    fn a_cookie_and_an_authorization_header_are_one_too_many() {
        let both = credentials_from(["token=a"], Some("Basic eA=="));
        assert_eq!(both, Err(CredentialProblem::Multiple));
        assert_eq!(
            CredentialProblem::Multiple.to_string(),
            "Having multiple authentication methods is not supported, please choose one"
        );
        assert_eq!(credentials_from(["lang=en"], Some("Bearer t")), token("t"));
    }

    #[test]
    fn a_password_may_hold_colons_and_be_empty() {
        assert_eq!(credentials_from([], Some(&basic("bob:a:b"))), password("bob", "a:b"));
        assert_eq!(credentials_from([], Some(&basic("bob:"))), password("bob", ""));
        assert_eq!(credentials_from([], Some(&basic("zoë:ключ"))), password("zoë", "ключ"));
        assert_eq!(credentials_from([], Some("basic Ym9iOng")), password("bob", "x"));
    }

    #[test]
    fn a_header_that_cannot_be_read_is_refused_by_its_kind() {
        let problem = |header: &str| credentials_from([], Some(header)).unwrap_err();
        assert_eq!(problem("X"), CredentialProblem::Malformed);
        assert_eq!(problem(""), CredentialProblem::Malformed);
        assert_eq!(problem("Digest x"), CredentialProblem::Invalid);
        assert_eq!(problem("Basic !!!"), CredentialProblem::Invalid);
        assert_eq!(problem(&basic("nocolon")), CredentialProblem::Invalid);
        assert_eq!(problem("Basic /w=="), CredentialProblem::Invalid);
        assert_eq!(credentials_from([], Some("Bearer abc")), token("abc"));
    }

    #[test]
    fn credentials_are_not_shown() {
        let shown = format!(
            "{:?} {:?}",
            Credentials::Token("geheim".to_owned()),
            Credentials::Password { user: "bob".to_owned(), password: "geheim".to_owned() }
        );
        assert!(!shown.contains("geheim"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(cookie in "\\PC{0,40}", header in proptest::option::of("\\PC{0,40}")) {
            let _ = credentials_from([cookie.as_str()], header.as_deref());
        }

        #[test]
        fn every_name_and_password_comes_through(user in "[^:]{0,20}", secret in "\\PC{0,20}") {
            prop_assert_eq!(
                credentials_from([], Some(&basic(&format!("{user}:{secret}")))),
                password(&user, &secret)
            );
        }
    }
}
