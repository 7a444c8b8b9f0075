//! From flags, environment and file to one checked [`Config`], and back to text.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{BadValue, Config, LEAST_STUCK_AFTER, MIN_WINDOW, Size, Tls};

/// How a key's value is written in an environment variable, where all is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Flag,
    /// Texts, separated by commas.
    List,
}

/// Every key: its section (empty at the top), its name, its kind. In the order in which they are printed.
const KEYS: &[(&str, &str, Kind)] = &[
    ("", "data", Kind::Text),
    ("", "listen", Kind::List),
    ("http", "public_url", Kind::Text),
    ("http", "trusted_proxies", Kind::List),
    ("http", "cors_origins", Kind::List),
    ("http", "head_timeout", Kind::Text),
    ("http", "idle_timeout", Kind::Text),
    ("http", "max_json", Kind::Text),
    ("tls", "cert", Kind::Text),
    ("tls", "key", Kind::Text),
    ("tls", "self_signed", Kind::Flag),
    ("auth", "failure_delay", Kind::Text),
    ("auth", "failures_per_address", Kind::Integer),
    ("storage", "sr_roots", Kind::List),
    ("storage", "content_format", Kind::Text),
    ("storage", "reserve", Kind::Text),
    ("storage", "stuck_after", Kind::Text),
    ("transfers", "memory_budget", Kind::Text),
    ("transfers", "window", Kind::Text),
    ("transfers", "detach", Kind::Text),
    ("transfers", "drain", Kind::Text),
    ("transfers", "queue_wait", Kind::Text),
    ("transfers", "upload_idle", Kind::Text),
    ("transfers", "download_idle", Kind::Text),
    ("limits", "concurrent", Kind::Integer),
    ("limits", "per_sr", Kind::Integer),
    ("limits", "per_user", Kind::Integer),
    ("limits", "per_backend", Kind::Integer),
    ("limits", "bandwidth", Kind::Text),
    ("limits", "bandwidth_per_sr", Kind::Text),
    ("tasks", "keep", Kind::Integer),
    ("tasks", "max_age", Kind::Text),
    ("audit", "keep", Kind::Text),
    ("metrics", "listen", Kind::Text),
    ("metrics", "token", Kind::Text),
    ("log", "format", Kind::Text),
    ("log", "level", Kind::Text),
];

/// The largest configuration file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`: the file to read; none is read without it.
    pub config: Option<PathBuf>,
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--listen`, as often as it was given; none leaves what else is configured.
    pub listen: Vec<SocketAddr>,
    /// `--tls-cert`, `--tls-key`, `--tls-self-signed`; what they say replaces all that is configured of `[tls]`.
    pub tls: Tls,
}

/// A configuration that cannot be used. All of them are wrong usage (exit code 2).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("the configuration file {} is larger than {MAX_FILE_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is no TOML, or holds an unknown key or a value that does not fit its key.
    #[error("{}, line {line}: {}", path.display(), source.message())]
    File {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// An environment variable that looks like a key of the configuration but is none.
    #[error("unknown environment variable {name}: no such key in the configuration")]
    UnknownVariable {
        /// The variable.
        name: String,
    },
    /// An environment variable's value does not fit its key.
    #[error("environment variable {name}: {}", source.message())]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// An environment variable's value is of the wrong kind.
    #[error("environment variable {name}: {found:?} is not {expected}")]
    VariableKind {
        /// The variable.
        name: String,
        /// What it should be.
        expected: &'static str,
        /// What it is, shortened.
        found: String,
    },
    /// The parts fit one by one, but not together.
    #[error("{}", source.message())]
    Merged {
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value that its type allows but that cannot work.
    #[error("{key}: {problem}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The configuration cannot be written as TOML.
    #[error("cannot show the configuration: {0}")]
    Print(#[source] Box<toml::ser::Error>),
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Too small.
    #[error("{found} is less than {least}")]
    TooSmall {
        /// The value.
        found: String,
        /// The least that works.
        least: String,
    },
    /// Too large.
    #[error("{found} is more than {most}")]
    TooLarge {
        /// The value.
        found: String,
        /// The most that works.
        most: String,
    },
    /// Nothing where something is needed.
    #[error("must not be empty")]
    Empty,
    /// No URL of a web server.
    #[error("{found:?} is not of the form http://HOST or https://HOST")]
    Url {
        /// The value.
        found: String,
    },
    /// An origin has no path.
    #[error("{found:?} is not an origin (scheme, host and port, without a path) nor \"*\"")]
    Origin {
        /// The value.
        found: String,
    },
    /// A path that would depend on where the service was started.
    #[error("{} is not an absolute path", found.display())]
    Relative {
        /// The path.
        found: PathBuf,
    },
    /// A key that needs another one.
    #[error("needs {other} as well")]
    Needs {
        /// The other key.
        other: &'static str,
    },
    /// Two keys of which only one can be meant.
    #[error("cannot be used together with {other}")]
    Excludes {
        /// The other key.
        other: &'static str,
    },
    /// No level of the log.
    #[error("{found:?} is not a log level (error, warn, info, debug, trace, or directives by module)")]
    Level {
        /// The value.
        found: String,
    },
    /// A value of another form.
    #[error(transparent)]
    Form(#[from] BadValue),
}

impl Config {
    /// The configuration from the command line, this process's environment and the file.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file with its line, the variable or the key.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::load_from(overrides, std::env::vars_os())
    }

    /// The same with an environment that is given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(
        overrides: &Overrides,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut table = match &overrides.config {
            Some(path) => read_file(path)?,
            None => Table::new(),
        };
        for (name, value) in environment {
            if let Some((section, key, value)) = from_variable(&name, &value)? {
                set(&mut table, section, key, value);
            }
        }
        let mut config =
            Self::deserialize(table).map_err(|source| ConfigError::Merged { source: Box::new(source) })?;
        if let Some(data) = &overrides.data {
            config.data.clone_from(data);
        }
        if !overrides.listen.is_empty() {
            config.listen.clone_from(&overrides.listen);
        }
        if overrides.tls != Tls::default() {
            config.tls = overrides.tls.clone();
        }
        config.check()?;
        Ok(config)
    }

    /// The configuration as TOML that can be loaded again: every key, defaults and empty lists included; secrets
    /// masked; what is not set as a comment.
    ///
    /// # Errors
    /// [`ConfigError::Print`] for what TOML cannot hold, such as a path that is no UTF-8.
    pub fn print(&self) -> Result<String, ConfigError> {
        let mut shown = self.clone();
        shown.transfers.download_idle = Some(self.transfers.download_idle());
        let table = Table::try_from(&shown).map_err(|source| ConfigError::Print(Box::new(source)))?;
        let mut text = String::new();
        let mut current = "";
        for (section, key, _) in KEYS {
            if *section != current {
                current = section;
                // writing to a String cannot fail
                let _ = writeln!(text, "\n[{section}]");
            }
            let _ = match get(&table, section, key) {
                Some(value) => writeln!(text, "{key} = {value}"),
                None => writeln!(text, "# {key} is not set"),
            };
        }
        Ok(text)
    }

    /// Refuses what the types allow but what cannot work.
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, problem| Err(ConfigError::Value { key, problem });
        if self.data.as_os_str().is_empty() {
            return wrong("data", Problem::Empty);
        }
        if self.listen.is_empty() {
            return wrong("listen", Problem::Empty);
        }
        if let Some(url) = &self.http.public_url {
            check_url(url).or_else(|problem| wrong("http.public_url", problem))?;
        }
        for origin in self.http.cors_origins.iter().filter(|origin| *origin != "*") {
            check_origin(origin).or_else(|problem| wrong("http.cors_origins", problem))?;
        }
        at_least("http.max_json", self.http.max_json, Size(1 << 10))?;
        at_most("http.max_json", self.http.max_json, Size::mib(64))?;
        self.check_tls()?;
        at_most("auth.failures_per_address", u64::from(self.auth.failures_per_address), 1000)?;
        for root in &self.storage.sr_roots {
            if !root.is_absolute() {
                return wrong("storage.sr_roots", Problem::Relative { found: root.clone() });
            }
        }
        at_least("transfers.window", self.transfers.window, MIN_WINDOW)?;
        at_least("transfers.memory_budget", self.transfers.memory_budget, Size::mib(1))?;
        for (key, span) in [
            ("http.head_timeout", self.http.head_timeout),
            ("http.idle_timeout", self.http.idle_timeout),
            ("audit.keep", self.audit.keep),
            ("transfers.upload_idle", self.transfers.upload_idle),
            ("transfers.download_idle", self.transfers.download_idle()),
        ] {
            // zero would cut everybody at once
            if span.get().is_zero() {
                return wrong(key, Problem::TooSmall { found: span.to_string(), least: "1ms".to_owned() });
            }
        }
        let stuck_after = self.storage.stuck_after;
        // disks that have to spin up first take seconds, and it is looked once a second
        if stuck_after.get() < LEAST_STUCK_AFTER.get() {
            let least = LEAST_STUCK_AFTER.to_string();
            return wrong("storage.stuck_after", Problem::TooSmall { found: stuck_after.to_string(), least });
        }
        if !crate::telemetry::is_level(&self.log.level) {
            return wrong("log.level", Problem::Level { found: self.log.level.clone() });
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let (key, problem) = match (&self.tls.cert, &self.tls.key, self.tls.self_signed) {
            (Some(_), None, _) => ("tls.cert", Problem::Needs { other: "tls.key" }),
            (None, Some(_), _) => ("tls.key", Problem::Needs { other: "tls.cert" }),
            (Some(_), Some(_), true) => ("tls.self_signed", Problem::Excludes { other: "tls.cert" }),
            (Some(_), Some(_), false) | (None, None, _) => return Ok(()),
        };
        Err(ConfigError::Value { key, problem })
    }
}

fn at_least<T: PartialOrd + ToString>(key: &'static str, found: T, least: T) -> Result<(), ConfigError> {
    if found >= least {
        return Ok(());
    }
    let problem = Problem::TooSmall { found: found.to_string(), least: least.to_string() };
    Err(ConfigError::Value { key, problem })
}

fn at_most<T: PartialOrd + ToString>(key: &'static str, found: T, most: T) -> Result<(), ConfigError> {
    if found <= most {
        return Ok(());
    }
    let problem = Problem::TooLarge { found: found.to_string(), most: most.to_string() };
    Err(ConfigError::Value { key, problem })
}

/// What follows the scheme of an HTTP address.
fn after_scheme(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let plain = !rest.contains(|c: char| c.is_control() || c.is_whitespace() || "?#\"<>".contains(c));
    (plain && !rest.is_empty() && !rest.starts_with('/')).then_some(rest)
}

fn check_url(url: &str) -> Result<(), Problem> {
    match after_scheme(url) {
        Some(rest) if !rest.ends_with('/') => Ok(()),
        _ => Err(Problem::Url { found: url.to_owned() }),
    }
}

fn check_origin(origin: &str) -> Result<(), Problem> {
    match after_scheme(origin) {
        Some(rest) if !rest.contains('/') => Ok(()),
        _ => Err(Problem::Origin { found: origin.to_owned() }),
    }
}

/// The file as a table, already known to fit the configuration.
fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let taken = std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_FILE_BYTES + 1), &mut text)
        .map_err(unreadable)?;
    if taken as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    let refused = |source: toml::de::Error| {
        let start = source.span().map_or(0, |span| span.start);
        let before = text.as_bytes().get(..start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        ConfigError::File { path: path.to_owned(), line, source: Box::new(source) }
    };
    toml::from_str::<Config>(&text).map_err(refused)?;
    text.parse().map_err(refused)
}

/// The key that an environment variable sets, with its value; `None` if the variable is none of ours.
fn from_variable(
    name: &OsString,
    value: &OsString,
) -> Result<Option<(&'static str, &'static str, Value)>, ConfigError> {
    let Some(path) = name.to_str().and_then(|name| name.strip_prefix("GANTRY_")) else { return Ok(None) };
    let found = KEYS.iter().find(|(section, key, _)| {
        if section.is_empty() {
            path == key.to_ascii_uppercase()
        } else {
            path == format!("{section}__{key}").to_ascii_uppercase()
        }
    });
    let name = format!("GANTRY_{path}");
    let Some((section, key, kind)) = found else {
        // a single underscore is somebody else's: the client's own, or those that Kubernetes sets for a service
        return if path.contains("__") { Err(ConfigError::UnknownVariable { name }) } else { Ok(None) };
    };
    let shortened = |text: &str| text.chars().take(64).collect::<String>();
    let wrong = |expected, found: &str| ConfigError::VariableKind {
        name: name.clone(),
        expected,
        found: shortened(found),
    };
    let Some(text) = value.to_str() else { return Err(wrong("UTF-8", &value.to_string_lossy())) };
    // compose files and unit files set variables to nothing when they mean to leave them out
    if text.is_empty() && (*kind != Kind::List || *key == "listen") {
        return Ok(None);
    }
    let value = match kind {
        Kind::Text => Value::String(text.to_owned()),
        Kind::Integer => Value::Integer(text.parse().map_err(|_| wrong("a whole number", text))?),
        Kind::Flag => Value::Boolean(text.parse().map_err(|_| wrong("true or false", text))?),
        Kind::List => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| Value::String(part.to_owned()))
                .collect(),
        ),
    };
    let mut alone = Table::new();
    set(&mut alone, section, key, value.clone());
    Config::deserialize(alone)
        .map_err(|source| ConfigError::Variable { name: name.clone(), source: Box::new(source) })?;
    Ok(Some((section, key, value)))
}

/// Puts a value where its key belongs.
fn set(table: &mut Table, section: &str, key: &str, value: Value) {
    if section.is_empty() {
        table.insert(key.to_owned(), value);
        return;
    }
    let entry = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = entry {
        inner.insert(key.to_owned(), value);
    }
}

/// The value at a key.
fn get<'a>(table: &'a Table, section: &str, key: &str) -> Option<&'a Value> {
    if section.is_empty() { table.get(key) } else { table.get(section)?.get(key) }
}
