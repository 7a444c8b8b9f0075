//! A stream that has no footer in front: a fixed VHD, if its last 512 bytes are that footer.

use bytes::Bytes;

use super::super::error::{Fact, MAX_VIRTUAL_SIZE, Rule, VhdError};
use super::super::footer::{DiskKind, FOOTER_COOKIE, FOOTER_LEN, Footer};
use super::{VhdSummary, behind_the_footer};
use crate::formats::ImageEvent;
use crate::formats::input::Input;

/// Passes a disk's bytes through and holds the last 512 back.
#[derive(Debug, Clone)]
pub(super) struct Flat {
    /// The last bytes before the input's position; at most 512.
    held: Vec<u8>,
    /// The footer, once it was found at the place that the announced length gave.
    footer: Option<Footer>,
}

impl Flat {
    pub(super) fn new(head: Vec<u8>) -> Self {
        Self { held: head, footer: None }
    }

    pub(super) fn read(
        &mut self,
        input: &mut Input,
        length: Option<u64>,
    ) -> Result<Option<ImageEvent>, VhdError> {
        if let Some(length) = length.filter(|&length| input.pushed() > length) {
            return Err(behind_the_footer(length));
        }
        if input.pushed() > MAX_VIRTUAL_SIZE + FOOTER_LEN as u64 {
            let found = input.pushed() - FOOTER_LEN as u64;
            return Err(VhdError::TooLarge { offset: found, found });
        }
        let offset = input.position() - self.held.len() as u64;
        let data = self.release(input);
        if !data.is_empty() {
            return Ok(Some(ImageEvent::Data { offset, data }));
        }
        if self.footer.is_none() && length == Some(input.position()) {
            let footer = check(&self.held, input.position())?;
            let size = footer.current_size;
            self.footer = Some(footer);
            return Ok(Some(ImageEvent::Size(size)));
        }
        Ok(None)
    }

    /// The next bytes that cannot be the footer; empty when more input is needed to tell.
    fn release(&mut self, input: &mut Input) -> Bytes {
        let excess = (self.held.len() + input.len()).saturating_sub(FOOTER_LEN);
        let old = excess.min(self.held.len());
        if old > 0 {
            let bytes = self.held.drain(..old).collect();
            self.hold(input);
            return bytes;
        }
        let bytes = input.take(excess as u64);
        self.hold(input);
        bytes
    }

    /// Takes the input's end into what is held back, when what came before it has been released.
    fn hold(&mut self, input: &mut Input) {
        if self.held.len() + input.len() <= FOOTER_LEN {
            self.held.extend_from_slice(&input.take(FOOTER_LEN as u64));
        }
    }

    pub(super) fn finish(self, position: u64, length: Option<u64>) -> Result<VhdSummary, VhdError> {
        let footer = match (self.footer, length) {
            (Some(footer), _) => footer,
            (None, Some(length)) => {
                return Err(VhdError::Truncated {
                    field: "disk",
                    offset: 0,
                    expected: length,
                    found: position,
                });
            }
            (None, None) => check(&self.held, position)?,
        };
        Ok(VhdSummary { virtual_size: footer.current_size, footer, blocks: 1, length: position })
    }
}

/// Checks that the last bytes of an image of `length` bytes are the footer of a fixed disk of what is before.
fn check(held: &[u8], length: u64) -> Result<Footer, VhdError> {
    let offset = length.saturating_sub(FOOTER_LEN as u64);
    let tail = held.last_chunk::<FOOTER_LEN>().copied().unwrap_or([0; FOOTER_LEN]);
    let found = tail.first_chunk::<8>().copied().unwrap_or_default();
    if found != FOOTER_COOKIE {
        return Err(VhdError::NotVhd { offset, found });
    }
    let footer = Footer::parse(&tail, offset)?;
    let bad = |rule, field, offset, expected, found| {
        Err(VhdError::Malformed { rule, field, offset, expected, found })
    };
    if footer.kind != DiskKind::Fixed {
        let expected = Fact::Text("the copy of the footer at the end");
        return bad(Rule::F11, "footer copy", 0, expected, Fact::Text("something else"));
    }
    if footer.current_size != offset {
        let (expected, found) = (Fact::Number(offset), Fact::Number(footer.current_size));
        return bad(Rule::F10, "current size", offset + 48, expected, found);
    }
    Ok(footer)
}
