//! The demo's own server: in this process, on a free port of the loopback, with a token that ends with it.

use std::future::Future;
use std::path::{Path, PathBuf};

use super::client::Service;
use super::console::say;
use crate::auth::{
    AccountError, Accounts, AdminPasswordSource, Passwords, TokenError, TokenId, TokenRequest, create_token,
    ensure_admin, revoke_token,
};
use crate::config::{Config, Span};
use crate::server::{self, StartError};
use crate::state::{DataDir, DataDirError, Db, StateError};

/// The user for whom the token is.
const USER: &str = "admin";
/// How long a transfer that is at work when the demo is interrupted may go on.
const DRAIN_SECS: u64 = 2;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartFailure {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Server(#[from] StartError),
    #[error("a thread of the start failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Starts a server on the data directory. Answers how to reach it, and what stops it. `kept`: the directory
/// outlives the demo, so the token is revoked, and a password that was made is shown.
pub(super) async fn start(
    data: PathBuf,
    kept: bool,
) -> Result<(Service, impl Future<Output = ()>), StartFailure> {
    let (token, id) = make_token(&data, kept).await?;
    let mut config =
        Config { data: data.clone(), listen: vec![([127, 0, 0, 1], 0).into()], ..Config::default() };
    config.transfers.drain = Span::from_secs(DRAIN_SECS);
    let running = server::start(config).await?;
    let base_url = running.urls().into_iter().next().unwrap_or_default();
    let stop = async move {
        running.stop().await;
        if kept && let Err(error) = end_token(&data, id).await {
            say(&format!("the demo's token {id} is not revoked: {error}"));
        }
    };
    Ok((Service { base_url, token }, stop))
}

/// As `gantry token create` does, before the server runs.
async fn make_token(data: &Path, kept: bool) -> Result<(String, TokenId), StartFailure> {
    let dir = DataDir::open_shared(data)?;
    let db = open(&dir).await?;
    let passwords = Passwords::new();
    let first = ensure_admin(&dir, &db, &passwords, &AdminPasswordSource::from_env()).await?;
    if kept {
        first.announce();
    }
    let owner = Accounts::new(&dir, db.clone(), passwords).by_name(USER).await?;
    let request = TokenRequest { description: Some("gantry demo".into()), ..TokenRequest::default() };
    let issued = create_token(&db, owner.id, None, request).await;
    db.close().await;
    let issued = issued?;
    Ok((issued.secret, issued.record.id))
}

async fn end_token(data: &Path, id: TokenId) -> Result<(), StartFailure> {
    let db = open(&DataDir::open_shared(data)?).await?;
    let revoked = revoke_token(&db, None, id).await;
    db.close().await;
    revoked?;
    Ok(())
}

async fn open(dir: &DataDir) -> Result<Db, StartFailure> {
    let path = dir.database_path();
    Ok(tokio::task::spawn_blocking(move || Db::open(&path)).await??)
}
