//! Copies a file as a supervised job, with progress on stderr:
//! `cargo run -p gantry-actors --example copy -- FROM TO`

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gantry_actors::{
    Engine, EngineConfig, JobContext, JobEnd, JobFailure, MemoryJournal, NewJob, TaskProperties,
};
use serde_json::{Value, json};

/// The blocking part: looks at the token and counts, chunk by chunk.
fn copy(ctx: &JobContext, from: &str, to: &str) -> io::Result<u64> {
    let (mut source, mut sink) = (File::open(from)?, File::create(to)?);
    ctx.progress().set_total(source.metadata()?.len());
    let mut chunk = vec![0; 256 * 1024];
    loop {
        if ctx.stop().is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = source.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        ctx.progress().add_read(bytes.len() as u64);
        sink.write_all(bytes)?;
        ctx.progress().add_written(bytes.len() as u64);
    }
    sink.sync_all()?;
    Ok(ctx.progress().written())
}

async fn job(ctx: JobContext, from: String, to: String) -> Result<Value, JobFailure> {
    let worker = ctx.clone();
    let copied = ctx.blocking(move || copy(&worker, &from, &to)).await?;
    let bytes = copied.map_err(|error| JobFailure::new("CopyError", "io", error.to_string()))?;
    Ok(json!({ "bytes": bytes }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(from), Some(to)) = (args.next(), args.next()) else {
        eprintln!("usage: copy FROM TO");
        return Ok(ExitCode::from(2));
    };
    let engine = Engine::start(EngineConfig::default(), Arc::new(MemoryJournal::new()))?;
    let name = format!("copy {from} to {to}");
    let properties = TaskProperties { name, task_type: "example:copy".into(), ..Default::default() };
    let mut ticket =
        engine.handle().submit(NewJob::new("copy", properties), |ctx| job(ctx, from, to)).await?;

    let mut beat = tokio::time::interval(Duration::from_millis(500));
    let end = loop {
        tokio::select! {
            end = ticket.end() => break end,
            _ = beat.tick() => if let Some(task) = engine.handle().task(ticket.id()) {
                eprintln!("{:3} %  {} bytes/s", task.progress.percent, task.progress.bytes_per_second);
            },
        }
    };
    engine.handle().drain(Duration::from_secs(1)).await;
    engine.stop().await;
    Ok(match end {
        JobEnd::Success(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        JobEnd::Failure(failure) => {
            eprintln!("cannot copy: {failure}");
            ExitCode::FAILURE
        }
        JobEnd::Aborted | JobEnd::Interrupted => ExitCode::FAILURE,
    })
}
