//! One connection, from its first message to its end.

use std::time::Duration;

use actix_ws::CloseCode;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::error::RpcError;
use super::incoming::{Incoming, MAX_MESSAGE_BYTES, Received};
use super::message::{self, Call, Message, Unreadable};
use super::methods;
use super::objects::Reply;
use super::outlet::{Gone, Outlet};
use super::session::Session;

/// How long a connection is silent before it is asked whether its client is there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long a connection may ask for nothing on which nobody has signed in.
const MAX_ANONYMOUS: Duration = Duration::from_secs(300);

/// An answer in a batch up to that length has its place in it whatever the others take.
const SHORT_BYTES: usize = 8 << 10;

/// Why a connection is ended.
type Why = (CloseCode, &'static str);

const STOPPING: Why = (CloseCode::Away, "the server is stopping");
const TOO_LONG: Why = (CloseCode::Size, "the message has more than 1 MiB");
const BINARY: Why = (CloseCode::Unsupported, "text is needed");
const BROKEN: Why = (CloseCode::Protocol, "this is no WebSocket");
const OVER: Why = (CloseCode::Policy, "the credentials are no longer valid");
const SILENT: Why = (CloseCode::Policy, "nobody has signed in");
const FAILED: Why = (CloseCode::Error, "the state database does not answer");

const _: () = assert!(MAX_MESSAGE_BYTES == 1 << 20, "the reason says so");

/// Serves a connection to its end.
pub async fn serve(
    mut session: Session,
    mut incoming: Incoming,
    mut outlet: Outlet,
    closing: CancellationToken,
) {
    let ended = answer_all(&mut session, &mut incoming, &mut outlet, &closing).await;
    // Before the client is told, so that it may open another at once.
    drop(session);
    if let Ok((code, why)) = ended {
        outlet.close(code, why).await;
    }
}

/// Answers until there is a reason to end.
///
/// # Errors
/// [`Gone`] when nobody is left to be told.
async fn answer_all(
    session: &mut Session,
    incoming: &mut Incoming,
    outlet: &mut Outlet,
    closing: &CancellationToken,
) -> Result<Why, Gone> {
    let (mut asked, mut answered) = (Instant::now(), false);
    loop {
        let received = tokio::select! {
            biased;
            () = closing.cancelled() => return Ok(STOPPING),
            received = timeout(PING_EVERY, incoming.next()) => received,
        };
        let anonymous_for_long = !session.is_signed_in() && asked.elapsed() > MAX_ANONYMOUS;
        match received {
            _ if anonymous_for_long => return Ok(SILENT),
            // Simple clients take whatever comes first as their answer.
            Err(_) if answered => outlet.ping().await?,
            Err(_) | Ok(Received::Pong) => {}
            Ok(Received::Text(text)) => {
                match answer(session, &text).await {
                    Ok(Some(reply)) => {
                        outlet.text(reply.json).await?;
                        answered = true;
                    }
                    Ok(None) => {}
                    Err(why) => return Ok(why),
                }
                asked = Instant::now();
            }
            Ok(Received::Ping(bytes)) => outlet.pong(&bytes).await?,
            Ok(Received::TooLong) => return Ok(TOO_LONG),
            Ok(Received::Binary) => return Ok(BINARY),
            Ok(Received::Broken) => return Ok(BROKEN),
            Ok(Received::End) => return Ok((CloseCode::Normal, "")),
        }
    }
}

/// The answer to a message; `None` if nobody waits for one.
///
/// # Errors
/// Why the connection ends instead.
async fn answer(session: &mut Session, text: &[u8]) -> Result<Option<Reply>, Why> {
    match Message::read(text) {
        Message::One(call) => Ok(answer_call(session, call).await?.map(|(_, reply)| reply)),
        Message::Batch(calls) => {
            let mut batch = Reply { json: "[".into(), room: None };
            for call in calls {
                let Some((id, reply)) = answer_call(session, call).await? else { continue };
                if batch.json.len() > 1 {
                    batch.json.push(',');
                }
                // What is short may be a secret that is told this once, and its length is bounded by their number.
                if reply.json.len() <= SHORT_BYTES {
                    batch.json.push_str(&reply.json);
                } else if let Err(error) = batch.push(&session.app().rpc.rooms, &reply.json) {
                    batch.json.push_str(&message::failure(&id, &error));
                }
            }
            batch.json.push(']');
            Ok(Some(batch).filter(|batch| batch.json.len() > 2))
        }
    }
}

/// The answer to a call, with its id; `None` if nobody waits for one.
///
/// # Errors
/// Why the connection ends instead.
async fn answer_call(
    session: &mut Session,
    call: Result<Call, Unreadable>,
) -> Result<Option<(Value, Reply)>, Why> {
    let call = match call {
        Ok(call) => call,
        Err(Unreadable { id, error }) => {
            let reply = failed(&id, &error);
            return Ok(Some((id, reply)));
        }
    };
    match session.still_stands().await {
        Ok(true) => {}
        Ok(false) => return Err(OVER),
        Err(error) => {
            tracing::error!(%error, "it cannot be seen whether a session still holds");
            return Err(FAILED);
        }
    }
    let id = call.id.clone();
    let done = methods::call(session, call).await;
    let Some(id) = id else { return Ok(None) };
    let reply = match done {
        Ok(Reply { json, room }) => Reply { json: message::result(&id, &json), room },
        Err(error) => failed(&id, &error),
    };
    Ok(Some((id, reply)))
}

fn failed(id: &Value, error: &RpcError) -> Reply {
    Reply { json: message::failure(id, error), room: None }
}
