//! `gantry check --audit`: whether the chain of the audit is whole.

use serde_json::json;

use super::super::user::{AccessError, DataArgs};
use crate::config::{Config, Overrides};
use crate::state::audit::{Verified, hex, verify_file};

/// Looks through the audit of a data directory. Whether it is sound, and the report.
///
/// # Errors
/// [`AccessError`] when it cannot be read.
pub(super) fn examine(args: &DataArgs, as_json: bool) -> Result<(bool, String), AccessError> {
    let overrides =
        Overrides { config: args.config.clone(), data: args.data.clone(), ..Overrides::default() };
    let database = Config::load(&overrides)?.data.join("gantry.db");
    let found = verify_file(&database)?;
    let report = if as_json { json(&found) } else { format!("{}: {}", database.display(), text(&found)) };
    Ok((found.broken.is_none(), report))
}

fn text(found: &Verified) -> String {
    let mut text = match &found.broken {
        None => format!("the audit is whole, {} records\n", found.records),
        Some(broken) => format!("the audit is BROKEN at record {}: {broken}\n", broken.seq()),
    };
    if found.anchor > 0 {
        text.push_str(&format!("  cut off        records up to {} (audit.keep)\n", found.anchor));
    }
    let what = if found.broken.is_some() { "last sound" } else { "last" };
    text.push_str(&format!(
        "  {what:<14} record {}\n  {:<14} {}\n",
        found.last,
        "its hash",
        hex(&found.hash)
    ));
    text
}

fn json(found: &Verified) -> String {
    let mut report = json!({
        "format": "audit",
        "sound": found.broken.is_none(),
        "records": found.records,
        "anchor": found.anchor,
        "last": found.last,
        "hash": hex(&found.hash),
    });
    if let (Some(broken), Some(members)) = (&found.broken, report.as_object_mut()) {
        let problem = json!({ "code": broken.code(), "record": broken.seq(), "message": broken.to_string() });
        members.insert("problems".into(), json!([problem]));
    }
    format!("{report:#}\n")
}
