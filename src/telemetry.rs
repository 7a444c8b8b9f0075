//! The log: lines for people on a terminal, one JSON object per line elsewhere, always on stderr.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// The log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A word that is no level.
    #[error("{word:?} is not a log level")]
    Level {
        /// The word.
        word: String,
    },
    /// A directive that is none.
    #[error("{directives:?} is not a list of log levels: {source}")]
    Directives {
        /// What was given.
        directives: String,
        /// Why it is none.
        #[source]
        source: ParseError,
    },
    /// This process has a log already.
    #[error("the log is already set up: {0}")]
    AlreadySet(#[from] TryInitError),
    /// The log that the handle belongs to is gone.
    #[error("the log's level cannot be changed: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the level of the running log.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// Takes another level from now on.
    ///
    /// # Errors
    /// [`TelemetryError`]; the level is then what it was.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        Ok(self.0.reload(filter(level)?)?)
    }
}

/// Starts the log of this process on stderr.
///
/// # Errors
/// [`TelemetryError`] if the level is none or the process has a log.
pub fn init(log: &Log) -> Result<LevelHandle, TelemetryError> {
    let (subscriber, handle) =
        subscriber(log, std::io::stderr().is_terminal(), BoxMakeWriter::new(std::io::stderr))?;
    subscriber.try_init()?;
    Ok(handle)
}

/// Whether a text is a level, or directives by module.
pub(crate) fn is_level(text: &str) -> bool {
    filter(text).is_ok()
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    // the library would take a misspelt level for a module of that name, and then log nothing at all
    let words = level.split(',').map(str::trim).filter(|word| !word.contains('='));
    for word in words {
        if word.is_empty() || word.parse::<LevelFilter>().is_err() {
            return Err(TelemetryError::Level { word: word.to_owned() });
        }
    }
    // What the HTTP library says of answers that were broken off is said better where they are; what it says of its
    // own start is of no use to anybody. Whoever names these modules in the level overrides this.
    let quiet = ["actix_http::h1::dispatcher=off", "actix_server=warn"];
    let directives = quiet.iter().copied().chain([level]).collect::<Vec<_>>().join(",");
    EnvFilter::builder()
        .with_regex(false)
        .parse(&directives)
        .map_err(|source| TelemetryError::Directives { directives: level.to_owned(), source })
}

/// The log's machinery, not yet in use.
fn subscriber(
    log: &Log,
    terminal: bool,
    writer: BoxMakeWriter,
) -> Result<(impl tracing::Subscriber + Send + Sync, LevelHandle), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    // a log whose device is full is no reason to write about it to the same device, or to panic
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    let human = match log.format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let lines = if human {
        lines.with_ansi(terminal).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    };
    Ok((tracing_subscriber::registry().with(filter).with(lines), LevelHandle(handle)))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a piece of code logs, with a handle on the level.
    fn logged(format: LogFormat, terminal: bool, level: &str, code: impl FnOnce(&LevelHandle)) -> String {
        let lines = Lines::default();
        let sink = lines.clone();
        let log = Log { format, level: level.to_owned() };
        let (subscriber, handle) =
            subscriber(&log, terminal, BoxMakeWriter::new(move || sink.clone())).unwrap();
        tracing::subscriber::with_default(subscriber, || code(&handle));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn elsewhere_than_on_a_terminal_each_line_is_a_json_object() {
        let text = logged(LogFormat::Auto, false, "info", |_| tracing::info!(bytes = 7, "moved \"it\"\n"));
        let lines: Vec<_> = text.lines().collect();
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((lines.len(), &line["message"], &line["bytes"]), (1, &"moved \"it\"\n".into(), &7.into()));
    }

    #[test]
    fn on_a_terminal_a_line_is_for_people_unless_told_otherwise() {
        assert!(logged(LogFormat::Auto, true, "info", |_| tracing::info!("moved")).contains("moved\n"));
        let json = logged(LogFormat::Json, true, "info", |_| tracing::info!("moved"));
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        let plain = logged(LogFormat::Human, false, "info", |_| tracing::info!("moved"));
        assert!(plain.ends_with("moved\n") && !plain.contains('\u{1b}'), "{plain:?}");
    }

    #[test]
    fn the_level_can_be_changed_while_the_log_runs() {
        let text = logged(LogFormat::Json, false, "warn", |handle| {
            tracing::info!("one");
            handle.set("info").unwrap();
            tracing::info!("two");
            assert!(matches!(handle.set("gantry=loud"), Err(TelemetryError::Directives { .. })));
            assert!(matches!(handle.set("loud"), Err(TelemetryError::Level { .. })));
            tracing::info!("three");
            handle.set("off").unwrap();
            tracing::error!("four");
        });
        assert!(!text.contains("one") && text.contains("two") && text.contains("three"), "{text}");
        assert!(!text.contains("four"), "{text}");
    }

    #[test]
    fn directives_by_module_are_levels_and_other_texts_are_not() {
        assert!(is_level("info") && is_level("TRACE") && is_level("warn,gantry::rest=debug"));
        assert!(!is_level("gantry=loud") && !is_level("loud") && !is_level(""));
    }
}
