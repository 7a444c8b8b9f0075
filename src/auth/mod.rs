//! Who asks, and what they may do: passwords, tokens, roles and scopes. Knows no HTTP but the form of the two
//! headers that carry credentials.

mod accounts;
pub mod audit;
mod authenticator;
mod credentials;
mod first_start;
mod password;
mod rights;
mod throttle;
mod tokens;

#[cfg(test)]
mod test_support;

pub use accounts::{AccountError, Accounts, KeepTokens, UserName, check_password_form, random_password};
pub use authenticator::{AuthError, Authenticator};
pub use credentials::{CredentialProblem, Credentials, credentials_from};
pub use first_start::{AdminPasswordSource, FirstStart, ensure_admin};
pub use password::{PasswordError, Passwords};
pub use rights::{Capability, Forbidden, Principal};
pub use tokens::{
    DEFAULT_VALIDITY_MS, IssuedToken, MAX_VALIDITY_MS, MIN_VALIDITY_MS, RENEWAL_GRACE_MS, TokenError,
    TokenRequest, Validity, create_token, is_due, renew_token, revoke_token, token_id_of,
};

pub use crate::state::tokens::{Client, Scope, TokenId, TokenRecord};
pub use crate::state::users::{Role, User};
