//! JSON-RPC 2.0 over WebSocket at `/api/`: what `xo-cli register`, `xo-cli create-token` and inventories ask for.
//!
//! A connection answers one message after the other, in the order in which they come, and says nothing unasked. Its
//! sender signs in within it; cookies do not count. Whether he still may is looked up before every call, so an expired
//! or revoked token, a new password or a removed user end the connection with its next message.
//!
//! Bounded: connections ([`seats`]), a message's length and number of values ([`message`], [`incoming`]), an answer's
//! length and what all answers take together ([`objects`]), and how long an answer may wait for its client
//! ([`outlet`]).

mod connection;
mod error;
mod incoming;
mod message;
mod methods;
mod objects;
mod outlet;
mod pattern;
mod seats;
mod session;
mod tokens;
mod upgrade;

use objects::Rooms;
use seats::Seats;

pub use upgrade::{connect, nowhere};

/// What the connections of a server share.
#[derive(Debug, Default)]
pub struct Desk {
    seats: Seats,
    rooms: Rooms,
}
