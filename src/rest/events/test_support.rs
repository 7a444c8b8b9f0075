//! Streams without connections, for the tests of this room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::body::MessageBody;
use bytes::Bytes;
use uuid::Uuid;

use super::outlet::{Heartbeat, Outlet, OutletBody};
use super::registry::{Refused, Registry};
use super::standing::Standing;
use crate::auth::{Principal, Role, TokenRecord};
use crate::ids::UserId;
use crate::state::tokens::SecretHash;

/// An operator with a token, limited to these SRs if there are any.
pub fn principal(user: UserId, srs: Option<&[&str]>) -> Principal {
    let id = SecretHash::of("x").id();
    let token = TokenRecord {
        id,
        family: id,
        superseded: false,
        user,
        created_ms: 0,
        expires_ms: i64::MAX,
        description: None,
        client: None,
        scope: None,
        objects: None,
        srs: srs.map(|srs| srs.iter().map(ToString::to_string).collect()),
        renewable: false,
        last_used_ms: None,
        last_address: None,
    };
    Principal { user, name: "x".into(), role: Role::Operator, token: Some(token) }
}

/// A stream, and whether its connection was cut.
pub struct Seat {
    pub id: Uuid,
    pub user: UserId,
    pub outlet: Arc<Outlet>,
    cut: Arc<AtomicBool>,
}

impl Seat {
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Takes what waits, as text; `true` when the stream is over after it.
    pub fn take(&self) -> (String, bool) {
        let heartbeat = Heartbeat { every: Duration::from_secs(3600), frame: Bytes::new };
        let mut body = pin!(OutletBody::new(Arc::clone(&self.outlet), heartbeat, ()));
        let mut text = String::new();
        loop {
            match body.as_mut().poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => text.push_str(std::str::from_utf8(&frame).unwrap()),
                Poll::Ready(None) => return (text, true),
                Poll::Pending => return (text, false),
            }
        }
    }
}

/// Opens a stream.
pub async fn seat(registry: &Registry, principal: Principal) -> Result<Seat, Refused> {
    let user = principal.user;
    let folder = tempfile::tempdir().unwrap();
    let db = crate::state::Db::open(&folder.path().join("db")).unwrap();
    let standing = Standing::of(&principal, &db).await.unwrap().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&cut);
    let opened = registry.open(principal, standing, Box::new(move || noted.store(true, Ordering::Relaxed)));
    opened.map(|(id, outlet)| Seat { id, user, outlet, cut })
}
