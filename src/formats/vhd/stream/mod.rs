//! Reads a VHD from a stream that only goes forward.
//!
//! A footer in front says dynamic or differencing; anything else can be a fixed VHD, which only its last 512
//! bytes can tell. A *fixed* footer in front is data: the format has no copy of it there, so such a stream is a
//! fixed VHD of a disk that begins with the image of another one. The trailing footer decides in any case.
//!
//! A differencing image is refused, with what is known about its parent, as soon as its header was found sound:
//! a stream has no place beside it where the parent could be.
//!
//! The batmap is not looked at: it repeats what the bitmaps say.

mod flat;
mod sparse;

use bytes::Bytes;

use self::flat::Flat;
use self::sparse::Sparse;
use super::error::{Fact, Rule, VhdError};
use super::footer::{DiskKind, FOOTER_COOKIE, FOOTER_LEN, Footer, check_virtual_size};
use crate::formats::ImageEvent;
use crate::formats::input::Input;

/// What a stream turned out to hold, when it was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhdSummary {
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// The footer.
    pub footer: Footer,
    /// Number of blocks in the stream; 1 for a fixed disk.
    pub blocks: u64,
    /// Length of the stream in bytes.
    pub length: u64,
}

/// A forward-only decoder. Push bytes as they come, take events until there are none, push more; at the end of
/// the input call [`finish`](Self::finish). How the input is cut makes no difference to what is read.
///
/// Data events are slices of what was pushed. Apart from those the decoder keeps at most one bitmap (64 KiB)
/// and 8 bytes for each block whose BAT entry has arrived, and never room for what was only announced.
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    input: Input,
    length: Option<u64>,
    state: State,
}

/// What is being read.
#[derive(Debug, Clone)]
enum State {
    /// The first 512 bytes, as far as they have come.
    Head(Vec<u8>),
    /// A fixed disk, if it is a VHD at all.
    Flat(Flat),
    /// A dynamic disk.
    Sparse(Box<Sparse>),
    /// An image that was refused.
    Refused(VhdError),
}

impl StreamDecoder {
    /// A decoder for a stream of `length` bytes, when its sender announced that. What does not fit into that
    /// length is then refused before it is read.
    pub fn new(length: Option<u64>) -> Self {
        Self { input: Input::default(), length, state: State::Head(Vec::new()) }
    }

    /// Adds bytes to the input. Best done when [`next_event`](Self::next_event) has nothing left: only then
    /// nothing is copied.
    pub fn push(&mut self, input: Bytes) {
        self.input.push(input);
    }

    /// Number of bytes of the stream that were used so far.
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// What the blocks of a dynamic disk hold together, in bytes of data; known from its table until the last of
    /// them was read.
    pub fn allocated_bytes(&self) -> Option<u64> {
        match &self.state {
            State::Sparse(sparse) => sparse.allocated_bytes(),
            _ => None,
        }
    }

    /// The next event; `None` when more input is needed, or everything was read.
    ///
    /// [`ImageEvent::Size`] comes before the first data of a dynamic disk. A fixed disk's size comes behind its
    /// data when the length was announced, and otherwise only in the summary.
    ///
    /// # Errors
    /// Why the image is refused; the same again when called again.
    pub fn next_event(&mut self) -> Result<Option<ImageEvent>, VhdError> {
        let event = self.read();
        if let Err(error) = &event {
            self.state = State::Refused(error.clone());
        }
        event
    }

    fn read(&mut self) -> Result<Option<ImageEvent>, VhdError> {
        loop {
            match &mut self.state {
                State::Head(head) => {
                    if let Some(length) = self.length.filter(|&length| length < FOOTER_LEN as u64) {
                        return Err(too_short(length));
                    }
                    if !self.input.fill(head, FOOTER_LEN) {
                        return Ok(None);
                    }
                    self.state = begin(std::mem::take(head), self.length)?;
                }
                State::Flat(flat) => return flat.read(&mut self.input, self.length),
                State::Sparse(sparse) => return sparse.read(&mut self.input, self.length),
                State::Refused(error) => return Err(error.clone()),
            }
        }
    }

    /// The end of the input. To be called when [`next_event`](Self::next_event) has nothing left.
    ///
    /// # Errors
    /// The image is not whole, its trailing footer is wrong, or it was refused before. Events that were not
    /// taken count as an image that is not whole: no disk is ever shorter than its stream said.
    pub fn finish(mut self) -> Result<VhdSummary, VhdError> {
        while let Some(event) = self.next_event()? {
            if matches!(event, ImageEvent::Data { .. }) {
                let (expected, found) = (self.input.pushed(), self.position());
                return Err(VhdError::Truncated { field: "data", offset: found, expected, found });
            }
        }
        let position = self.position();
        match self.state {
            State::Head(_) => Err(too_short(position)),
            State::Flat(flat) => flat.finish(position, self.length),
            State::Sparse(sparse) => sparse.finish(position, self.length),
            State::Refused(error) => Err(error),
        }
    }
}

/// What the first 512 bytes say.
fn begin(head: Vec<u8>, length: Option<u64>) -> Result<State, VhdError> {
    let Some(copy) = head.first_chunk::<FOOTER_LEN>() else { return Ok(State::Head(head)) };
    if copy.starts_with(&FOOTER_COOKIE) || copy.starts_with(b"v_poison") {
        let footer = Footer::parse(copy, 0)?;
        if footer.kind != DiskKind::Fixed {
            return Ok(State::Sparse(Box::new(Sparse::new(*copy, footer, length)?)));
        }
    }
    if let Some(data) = length.and_then(|length| length.checked_sub(FOOTER_LEN as u64)) {
        check_virtual_size(data, data + 48)?;
    }
    Ok(State::Flat(Flat::new(head)))
}

/// F1.
fn too_short(length: u64) -> VhdError {
    let (expected, found) = (Fact::AtLeast(FOOTER_LEN as u64), Fact::Number(length));
    VhdError::Malformed { rule: Rule::F1, field: "image length", offset: 0, expected, found }
}

/// F2: bytes behind the trailing footer, which ends at byte `length`.
fn behind_the_footer(length: u64) -> VhdError {
    let (expected, found) = (Fact::Text("no byte behind the footer"), Fact::Text("more bytes"));
    VhdError::Malformed { rule: Rule::F2, field: "image end", offset: length, expected, found }
}
