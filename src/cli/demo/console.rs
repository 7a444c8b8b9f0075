//! What the demo says while it works: bars on a terminal, else plain lines. All of it on stderr.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A stage whose end is known.
const WITH_TOTAL: &str =
    "  {msg:34} {bar:24} {percent:>3} %  {binary_bytes:>10}  {binary_bytes_per_sec:>12}  {eta:>4}";
/// One whose end is not, or not yet: something that moves while bytes do, and the time that it took so far.
const WITHOUT_TOTAL: &str =
    "  {msg:34} {spinner:24}        {binary_bytes:>10}  {binary_bytes_per_sec:>12}  {elapsed:>4}";
/// What moves; the last one stays at the end.
const MOVING: [&str; 9] = [
    "===",
    "   ===",
    "      ===",
    "         ===",
    "            ===",
    "               ===",
    "                  ===",
    "                     ===",
    "========================",
];

/// A stage's bar, or its lines.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    bar: ProgressBar,
    plain: bool,
    what: String,
    begun: Instant,
    /// Bytes that were there before the stage began.
    before: u64,
}

/// How much a stage moved, and how long that took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// Says something in a line of its own.
pub(super) fn say(line: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}

impl Meter {
    /// Begins a stage. `total` is in bytes; it may come later, or never.
    pub(super) fn begin(what: impl Into<String>, total: Option<u64>) -> Self {
        let what = what.into();
        let plain = !io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what.clone());
        if plain {
            say(&format!("{what} ..."));
        }
        bar.set_style(style(total));
        Self { bar, plain, what, begun: Instant::now(), before: 0 }
    }

    /// The same, with bytes that are there already: the bar begins behind them.
    pub(super) fn going_on_after(self, before: u64) -> Self {
        self.bar.set_position(before);
        self.bar.reset_eta();
        Self { before, ..self }
    }

    /// What was not known when the stage began.
    pub(super) fn set_total(&self, bytes: u64) {
        self.bar.set_style(style(Some(bytes)));
        self.bar.set_length(bytes);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Ends the stage.
    pub(super) fn end(&self) -> Took {
        let took =
            Took { bytes: self.bar.position().saturating_sub(self.before), time: self.begun.elapsed() };
        self.bar.finish();
        if self.plain {
            say(&format!("{}: {}, {}", self.what, size(took.bytes), took));
        }
        took
    }
}

/// How a stage looks on a terminal.
fn style(total: Option<u64>) -> ProgressStyle {
    let template = if total.is_some() { WITH_TOTAL } else { WITHOUT_TOTAL };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").tick_strings(&MOVING)
}

impl std::fmt::Display for Took {
    /// Time and speed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.time.as_secs_f64();
        let speed = self.bytes as f64 / f64::from(1 << 20) / seconds.max(1e-6);
        write!(f, "{seconds:>6.2} s  {speed:>7.1} MiB/s")
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x400 => return format!("{bytes} B"),
        0x400..0x10_0000 => (1u64 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        let shown = [0, 1023, 1024, 1 << 20, (256 << 20) + (1 << 19), 5 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "256.5 MiB", "5.0 GiB"]);
    }

    #[test]
    fn both_kinds_of_bars_can_be_drawn() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert!(MOVING.iter().all(|piece| piece.len() <= 24));
    }

    #[test]
    fn a_stage_counts_what_it_moved() {
        let meter = Meter::begin("test", None);
        meter.set_total(30);
        meter.add(10);
        meter.add(20);
        assert_eq!(meter.end().bytes, 30);
        let resumed = Meter::begin("test", Some(100)).going_on_after(40);
        resumed.add(60);
        assert_eq!(resumed.end().bytes, 60, "what was there before does not count");
        let endless = Meter::begin("test", None);
        endless.add(7);
        assert_eq!(endless.end().bytes, 7, "without a total");
        let took = Took { bytes: 3 << 20, time: Duration::from_millis(1500) };
        assert_eq!(took.to_string(), "  1.50 s      2.0 MiB/s");
    }
}
