//! The log: lines for people on a terminal, one JSON object per line elsewhere, always on stderr.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// The log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none.
    #[error("{level:?} is not a log level: {source}")]
    Level {
        /// What was given.
        level: String,
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
    /// [`TelemetryError::Level`], which leaves the level as it is, or [`TelemetryError::Gone`].
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
    EnvFilter::builder()
        .with_regex(false)
        .parse(level)
        .map_err(|source| TelemetryError::Level { level: level.to_owned(), source })
}

/// The log's machinery, not yet in use.
fn subscriber(
    log: &Log,
    terminal: bool,
    writer: BoxMakeWriter,
) -> Result<(impl SubscriberInitExt + Into<tracing::Dispatch>, LevelHandle), TelemetryError> {
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
