//! This machine, as a host.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::backends::local::{LocalError, LocalStore};

use super::objects;

/// What does not change while the server runs.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// Processor cores.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Facts about the processors, as the contract's deprecated member has them.
    cpus: BTreeMap<String, String>,
    /// When the machine started, Unix seconds.
    started: Option<i64>,
    /// When this program started, Unix seconds.
    agent_started: i64,
}

impl HostFacts {
    /// Looks at the machine. Reads small files of the kernel; for the start of the server.
    pub fn gather() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let uname = rustix::system::uname();
        let mut cpus = BTreeMap::from([("cpu_count".to_owned(), cores.to_string())]);
        if let Some(model) = named_line("/proc/cpuinfo", "model name") {
            cpus.insert("modelname".into(), model);
        }
        Self {
            hostname: uname.nodename().to_string_lossy().into_owned(),
            cores,
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal").unwrap_or(0),
            cpus,
            started: named_field("/proc/stat", "btime").and_then(|text| text.parse().ok()),
            agent_started: jiff::Timestamp::now().as_second(),
        }
    }

    /// The host object.
    ///
    /// # Errors
    /// When the state database does not answer.
    pub async fn object(&self, store: &LocalStore) -> Result<Value, LocalError> {
        let site = store.site();
        let label = store.label(&site.host.to_string()).await?;
        let available = tokio::task::spawn_blocking(|| kibibytes("/proc/meminfo", "MemAvailable"));
        let available = available.await.ok().flatten().unwrap_or(0);
        let gib = 1_u64 << 30;
        let name = if label.name_label.is_empty() { &self.hostname } else { &label.name_label };
        let object = json!({
            "name_label": name,
            "name_description": label.name_description,
            "hostname": self.hostname,
            "address": "127.0.0.1",
            "power_state": "Running",
            "enabled": true,
            "version": env!("CARGO_PKG_VERSION"),
            "build": env!("CARGO_PKG_VERSION"),
            "productBrand": "Gantry",
            "memory": {
                "size": self.memory_bytes.div_ceil(gib).saturating_mul(gib),
                "usage": self.memory_bytes.saturating_sub(available),
            },
            "cpus": { "cores": self.cores, "sockets": 1 },
            "CPUs": self.cpus,
            "residentVms": [],
            "$PBDs": [],
            "PIFs": [],
            "$PIFs": [],
            "PCIs": [],
            "$PCIs": [],
            "PGPUs": [],
            "$PGPUs": [],
            "startTime": self.started,
            "agentStartTime": self.agent_started,
            "license_params": {},
            "license_server": {},
            "license_expiry": null,
            "logging": {},
            "otherConfig": {},
            "bios_strings": {},
            "chipset_info": {},
            "iscsiIqn": "",
            "multipathing": false,
            "hvmCapable": false,
            "zstdSupported": true,
            "rebootRequired": false,
            "powerOnMode": "",
            "patches": [],
            "supplementalPacks": [],
            "current_operations": {},
            "tags": label.tags,
        });
        Ok(objects::with_reference(object, &site.host.to_string(), "host", site))
    }
}

fn named_line(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn named_field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next().map(str::to_owned))
}

fn kibibytes(file: &str, name: &str) -> Option<u64> {
    let line = named_line(file, name)?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
