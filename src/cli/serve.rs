//! `gantry serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Overrides, Tls};
use crate::server::{self, RunningServer};
use crate::telemetry::{self, LevelHandle};

/// Arguments of `gantry serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gantry serve\n  gantry serve --data /var/lib/gantry --listen 0.0.0.0:8080\n  \
                        gantry serve --tls-self-signed --listen 0.0.0.0:8443\n  \
                        gantry serve --config /etc/gantry.toml\n  gantry serve --print-config"
)]
pub struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory [default: ./gantry-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on, may be given several times; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// Certificate chain (PEM) to offer HTTPS with; needs --tls-key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Offer HTTPS with a certificate that is made once and kept in the data directory
    #[arg(long, conflicts_with = "tls_cert")]
    tls_self_signed: bool,
    /// Print the effective configuration as TOML and exit; secrets are masked
    #[arg(long)]
    print_config: bool,
}

/// Runs the service until it is told to stop. Returns the exit code: 0 drained, 1 for trouble with the data
/// directory, an address or a disk, 2 for a bad configuration.
pub fn run(args: ServeArgs) -> u8 {
    let tls = Tls { cert: args.tls_cert, key: args.tls_key, self_signed: args.tls_self_signed };
    let overrides = Overrides { config: args.config, data: args.data, listen: args.listen, tls };
    let config = match Config::load(&overrides) {
        Ok(config) => config,
        Err(error) => {
            super::complain(&error);
            return 2;
        }
    };
    if args.print_config {
        return match config.print() {
            Ok(text) => super::print_out(&text),
            Err(error) => {
                super::complain(&error);
                2
            }
        };
    }
    let level = match telemetry::init(&config.log) {
        Ok(level) => level,
        Err(error) => {
            super::complain(&error);
            return 2;
        }
    };
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    actix_rt::System::new().block_on(serve(config, &overrides, &level))
}

/// SIGHUP: takes what may change while the server runs. A configuration that cannot be read changes nothing.
async fn reload(overrides: &Overrides, level: &LevelHandle, running: &RunningServer) {
    let config = match Config::load(overrides) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "SIGHUP: the configuration is bad, nothing was changed");
            return;
        }
    };
    let certificate = match running.read_certificate(&config.tls).await {
        Ok(certificate) => certificate,
        Err(error) => {
            tracing::error!(%error, "SIGHUP: the certificate is bad, nothing was changed");
            return;
        }
    };
    if let Err(error) = level.set(&config.log.level) {
        tracing::error!(%error, "SIGHUP: the log level is bad, nothing was changed");
        return;
    }
    running.set_limits(&config.limits);
    if let Some(certificate) = certificate {
        running.show(&certificate);
        tracing::info!(fingerprint = certificate.fingerprint(), "SIGHUP: the certificate was read again");
    }
    if running.secure != config.tls.is_on() {
        tracing::warn!("SIGHUP: TLS cannot be switched on or off while the server runs");
    }
    let level = &config.log.level;
    tracing::info!(%level, limits = ?config.limits, "SIGHUP: log level and limits were taken over");
}

async fn serve(config: Config, overrides: &Overrides, level: &LevelHandle) -> u8 {
    // Before anything else, so that no signal is lost while the state is being opened.
    let signals = signal(SignalKind::terminate()).and_then(|terminate| {
        Ok((terminate, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?))
    });
    let (mut terminate, mut interrupt, mut hangup) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            super::complain(&error);
            return 1;
        }
    };
    let mut running = match server::start(config).await {
        Ok(running) => running,
        Err(error) => {
            super::complain(&error);
            return 1;
        }
    };
    let mut lines = String::new();
    for url in running.urls() {
        lines.push_str(&format!("gantry listening on {url}\n"));
    }
    // Whoever started the program may have closed its output, but an address that is lost on a full device is
    // one that nobody learns.
    let mut code = super::print_out(&lines);
    if code != 0 {
        running.stop().await;
        return code;
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            ended = running.ended() => {
                tracing::error!(?ended, "the HTTP server has ended by itself");
                code = 1;
                break;
            }
            _ = hangup.recv() => {
                reload(overrides, level, &running).await;
            }
        }
    }
    tracing::info!("draining: a second signal stops at once");
    let stopping = running.stop();
    tokio::select! {
        stopped = stopping => {
            if stopped.cut > 0 {
                tracing::warn!(transfers = stopped.cut, "transfers had to be stopped");
            }
            tracing::info!("drained");
            code
        }
        // Nobody waits for anything: not for threads, not for open answers.
        _ = terminate.recv() => std::process::exit(1),
        _ = interrupt.recv() => std::process::exit(1),
    }
}
