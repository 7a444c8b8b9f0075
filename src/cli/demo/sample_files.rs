//! What the files of the demo's disk hold: text, noise, something like a log. The same each time.

use std::io;

/// Most bytes held at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What a file holds, made as it is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Text(&'static str),
    Log { bytes: u64 },
    Noise { seed: u64, bytes: u64 },
}

impl Content {
    /// Number of bytes.
    pub(super) fn len(self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Log { bytes } | Self::Noise { bytes, .. } => bytes,
        }
    }

    /// Hands the bytes over, piece by piece.
    pub(super) fn pieces(self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut dice = Dice::new(self.len());
        match self {
            Self::Text(text) => write(text.as_bytes()),
            Self::Noise { seed, bytes } => {
                let mut dice = Dice::new(seed);
                cut(bytes, write, |piece| {
                    while piece.len() < PIECE_BYTES {
                        piece.extend_from_slice(&dice.roll().to_le_bytes());
                    }
                })
            }
            Self::Log { bytes } => cut(bytes, write, |piece| {
                while piece.len() < PIECE_BYTES {
                    let roll = dice.roll();
                    let (second, user, size) = (roll % 86_400, roll >> 20 & 0xff, roll >> 32 & 0xf_ffff);
                    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
                    piece.extend_from_slice(
                        format!("2026-01-01T{hour:02}:{minute:02}:{second:02}Z user{user:03} GET /disks/{user:03}.vhd 200 {size} bytes\n")
                            .as_bytes(),
                    );
                }
            }),
        }
    }
}

/// Fills pieces until `bytes` are written.
fn cut(
    bytes: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
    mut fill: impl FnMut(&mut Vec<u8>),
) -> io::Result<()> {
    let mut left = bytes;
    let mut piece = Vec::with_capacity(PIECE_BYTES + 128);
    while left > 0 {
        piece.clear();
        fill(&mut piece);
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        write(&piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
impl Content {
    /// All of it.
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let collected = self.pieces(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        collected.map(|()| bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_repeat_and_the_log_is_lines_of_text() {
        let noise = Content::Noise { seed: 1, bytes: 1 << 20 }.bytes();
        let distinct: std::collections::HashSet<_> = noise.chunks(8).collect();
        assert_eq!(distinct.len(), (1 << 20) / 8);
        let log = String::from_utf8(Content::Log { bytes: 100_000 }.bytes()).unwrap();
        assert!(
            log.lines().rev().skip(1).all(|line| line.starts_with("2026-01-01T") && line.ends_with(" bytes"))
        );
    }
}
