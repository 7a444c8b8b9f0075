//! The configuration: flags win over the environment, the environment over the file, the file over
//! defaults. TOML; a key that nobody reads is refused with its line, because a misspelt limit is no limit.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::DiskFormat;

mod load;
mod values;

pub use load::{ConfigError, Overrides};
pub use values::{BadValue, Network, Secret, Size, Span, parse_duration};

/// Bytes that the two smallest chunks of one transfer take: no window is smaller.
pub const MIN_WINDOW: Size = Size(128 << 10);

/// The least that `storage.stuck_after` may be.
pub const LEAST_STUCK_AFTER: Span = Span::from_secs(1);

/// `storage.reserve` unless told otherwise; see [`Storage::reserve_on`].
pub const DEFAULT_RESERVE: Size = Size::mib(64);

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the state database, of the local SR and of all else that the service keeps.
    pub data: PathBuf,
    /// Addresses on which it answers; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// The HTTP edge.
    pub http: Http,
    /// TLS on the addresses above.
    pub tls: Tls,
    /// Logging in.
    pub auth: Auth,
    /// Where disks lie.
    pub storage: Storage,
    /// How they are moved.
    pub transfers: Transfers,
    /// How many at once and how fast.
    pub limits: Limits,
    /// What is remembered of those that ended.
    pub tasks: Tasks,
    /// What is written down of who did what.
    pub audit: Audit,
    /// `/metrics`.
    pub metrics: Metrics,
    /// The log on stderr.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./gantry-data"),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            http: Http::default(),
            tls: Tls::default(),
            auth: Auth::default(),
            storage: Storage::default(),
            transfers: Transfers::default(),
            limits: Limits::default(),
            tasks: Tasks::default(),
            audit: Audit::default(),
            metrics: Metrics::default(),
            log: Log::default(),
        }
    }
}

/// `[http]`: the HTTP edge.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Scheme, host and perhaps a path under which clients reach the service, without a slash at the end.
    pub public_url: Option<String>,
    /// Whose `Forwarded` and `X-Forwarded-…` headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// Origins that browsers may call from; `"*"` is any.
    pub cors_origins: Vec<String>,
    /// How long a request's head may take to arrive.
    pub head_timeout: Span,
    /// How long a connection stays open that nothing is asked on.
    pub idle_timeout: Span,
    /// The largest JSON or form body that is read.
    pub max_json: Size,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            public_url: None,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            head_timeout: Span::from_secs(10),
            idle_timeout: Span::from_secs(75),
            max_json: Size::mib(1),
        }
    }
}

/// `[tls]`: either a certificate with its key, or one that the service signs itself, or plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Make a certificate and keep it in the data directory.
    pub self_signed: bool,
}

impl Tls {
    /// Whether the addresses speak HTTPS.
    pub fn is_on(&self) -> bool {
        self.self_signed || self.cert.is_some()
    }
}

/// `[auth]`: what failed logins cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// How long after a failure every password for that name is refused.
    pub failure_delay: Span,
    /// Failures within 60 s after which an address may try no more passwords; 0 = no such limit.
    pub failures_per_address: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Self { failure_delay: Span::from_secs(2), failures_per_address: 20 }
    }
}

/// `[storage]`: where disks lie.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Directories under which administrators may place SRs.
    pub sr_roots: Vec<PathBuf>,
    /// The form in which new disks are kept unless their SR says otherwise.
    pub content_format: DiskFormat,
    /// Space on an SR's file system that imports leave free; see [`Storage::reserve_on`].
    pub reserve: Size,
    /// How long one operation on an SR's storage may take before it is given up as hanging.
    pub stuck_after: Span,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            sr_roots: Vec::new(),
            content_format: DiskFormat::Raw,
            reserve: DEFAULT_RESERVE,
            stuck_after: Span::from_secs(60),
        }
    }
}

impl Storage {
    /// Bytes to leave free on a file system of `total_bytes`: what is configured; the default, though, never
    /// more than 2 % of the file system, or a small one could take nothing.
    pub fn reserve_on(&self, total_bytes: u64) -> u64 {
        if self.reserve == DEFAULT_RESERVE {
            self.reserve.bytes().min(total_bytes / 50)
        } else {
            self.reserve.bytes()
        }
    }
}

/// `[transfers]`: how disks are moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transfers {
    /// Bytes in flight of all transfers together.
    pub memory_budget: Size,
    /// Bytes in flight of one transfer at most.
    pub window: Size,
    /// How long a transfer whose client has gone waits for it.
    pub detach: Span,
    /// How long running transfers may go on after SIGTERM.
    pub drain: Span,
    /// How long a request waits to be admitted.
    pub queue_wait: Span,
    /// Silence after which an upload is cut.
    pub upload_idle: Span,
    /// Silence after which a reader that takes nothing is cut; that of `upload_idle` unless set.
    pub download_idle: Option<Span>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            memory_budget: Size::mib(512),
            window: Size::mib(32),
            detach: Span::from_hours(24),
            drain: Span::from_secs(30),
            queue_wait: Span::from_secs(30),
            upload_idle: Span::from_secs(300),
            download_idle: None,
        }
    }
}

impl Transfers {
    /// Silence after which a reader that takes nothing is cut.
    pub fn download_idle(&self) -> Span {
        self.download_idle.unwrap_or(self.upload_idle)
    }
}

/// `[limits]`: 0 = none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Transfers that run at once.
    pub concurrent: u32,
    /// Transfers that run at once on one SR.
    pub per_sr: u32,
    /// Transfers that run at once for one user.
    pub per_user: u32,
    /// Transfers that run at once on one backend.
    pub per_backend: u32,
    /// Bytes per second of all transfers together.
    pub bandwidth: Size,
    /// Bytes per second of all transfers of one SR.
    pub bandwidth_per_sr: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent: 0,
            per_sr: 0,
            per_user: 0,
            per_backend: 0,
            bandwidth: Size(0),
            bandwidth_per_sr: Size(0),
        }
    }
}

/// `[tasks]`: how long ended tasks are remembered; whichever comes first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tasks {
    /// How many.
    pub keep: u32,
    /// For how long.
    pub max_age: Span,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { keep: 1000, max_age: Span::from_days(30) }
    }
}

/// `[audit]`: what is written down of who did what.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// For how long a record is kept.
    pub keep: Span,
}

impl Default for Audit {
    fn default() -> Self {
        Self { keep: Span::from_days(365) }
    }
}

/// `[metrics]`: where `/metrics` answers, and to whom.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// An address for `/metrics` alone, besides those of the service.
    pub listen: Option<SocketAddr>,
    /// Bearer token that a scraper has to show.
    pub token: Option<Secret>,
}

/// `[log]`: the log on stderr.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives by module (`info,gantry::rest=debug`).
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Something in the configuration that works, but that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigWarning {
    /// Passwords and tokens cross the network in the clear.
    #[error("listening on {address} without TLS: passwords and tokens can be read on the way")]
    PlainBeyondLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The printed form of a configuration was loaded.
    #[error("metrics.token is the mask that --print-config shows: no scraper can know it")]
    MaskedToken,
}

impl Config {
    /// What its owner should know before the service runs with it.
    pub fn warnings(&self) -> Vec<ConfigWarning> {
        let metrics = self.metrics.listen.iter();
        let plain = if self.tls.is_on() { [].iter() } else { self.listen.iter() };
        plain
            .chain(metrics)
            .filter(|address| !address.ip().to_canonical().is_loopback())
            .map(|address| ConfigWarning::PlainBeyondLoopback { address: *address })
            .chain(
                self.metrics
                    .token
                    .iter()
                    .filter(|token| token.was_masked())
                    .map(|_| ConfigWarning::MaskedToken),
            )
            .collect()
    }

    /// The directory in which an SR may be placed that lies at `path`, if any root holds it. Both are compared
    /// as they are written: the caller resolves links and `..` first.
    pub fn sr_root_of(&self, path: &Path) -> Option<&Path> {
        self.storage
            .sr_roots
            .iter()
            .map(PathBuf::as_path)
            .find(|root| path.starts_with(root) && path != *root)
    }
}

#[cfg(test)]
mod tests;
