//! What comes in over a WebSocket: whole messages, put together from their fragments.

use actix_ws::{Item, Message, MessageStream, ProtocolError};
use bytes::{Bytes, BytesMut};

/// The longest message, in one frame or in several.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Something that came in.
#[derive(Debug)]
pub enum Received {
    /// A whole message.
    Text(Bytes),
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// A sign of life.
    Pong,
    /// A message that is longer than any may be.
    TooLong,
    /// A message that is no text.
    Binary,
    /// What is no WebSocket.
    Broken,
    /// The client is leaving, or has left.
    End,
}

/// The incoming half of a connection. Waiting for what comes next may be given up and begun again.
pub struct Incoming {
    stream: MessageStream,
    fragments: Option<BytesMut>,
}

impl Incoming {
    /// Of a connection.
    pub fn new(stream: MessageStream) -> Self {
        Self { stream: stream.max_frame_size(MAX_MESSAGE_BYTES), fragments: None }
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Received {
        loop {
            let message = match self.stream.recv().await {
                None => return Received::End,
                Some(Ok(message)) => message,
                Some(Err(ProtocolError::Overflow)) => return Received::TooLong,
                Some(Err(ProtocolError::Io(error))) if error.kind() != std::io::ErrorKind::InvalidData => {
                    return Received::End;
                }
                Some(Err(_)) => return Received::Broken,
            };
            match message {
                Message::Text(text) => return Received::Text(text.into_bytes()),
                Message::Binary(_) | Message::Continuation(Item::FirstBinary(_)) => return Received::Binary,
                Message::Continuation(item) => match self.join(item) {
                    Some(received) => return received,
                    None => continue,
                },
                Message::Ping(bytes) => return Received::Ping(bytes),
                Message::Pong(_) => return Received::Pong,
                Message::Close(_) => return Received::End,
                Message::Nop => {}
            }
        }
    }

    /// Adds a fragment. The codec below refuses those that are out of order.
    fn join(&mut self, item: Item) -> Option<Received> {
        let (bytes, last) = match item {
            Item::FirstText(bytes) | Item::FirstBinary(bytes) | Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let fragments = self.fragments.get_or_insert_default();
        if fragments.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return Some(Received::TooLong);
        }
        fragments.extend_from_slice(&bytes);
        let whole = if last { self.fragments.take() } else { None };
        whole.map(|whole| Received::Text(whole.freeze()))
    }
}
