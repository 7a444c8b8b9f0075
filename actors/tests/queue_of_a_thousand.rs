//! What a long queue costs, on the engine's own threads and in real time. Alone in its process, because what it
//! measures is the process.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_actors::{
    AdmissionLimits, Claim, ClaimMode, Engine, EngineConfig, EngineHandle, Group, JobEnd, JobState,
    JobTicket, MemoryJournal, NewJob, RetryPolicy, TaskProperties,
};
use serde_json::json;

const MIB: usize = 1 << 20;

/// Resident memory of this process in bytes.
#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    // The kernel's page on the machines that this runs on; a larger one would only make the test stricter.
    resident * 4096
}

/// A job as a server makes it: with an owner, claims, a spec, shown parameters, and work that is not nothing.
async fn submit(engine: &EngineHandle, n: usize) -> JobTicket {
    let properties = TaskProperties {
        name: format!("import of disk {n}"),
        task_type: "xo:rest-api:action".into(),
        object_id: Some(format!("5b2f0f0e-7d1c-4f0a-9a53-{n:012}")),
        params: Some(json!({ "id": format!("5b2f0f0e-7d1c-4f0a-9a53-{n:012}"), "format": "vhd" })),
        ..Default::default()
    };
    let new = NewJob {
        owner: Some(format!("user {}", n % 50)),
        spec: json!({ "sr": "6c0b1a55-2f43-4d8e-8d0f-0b6f2f1a77aa", "size": 137_438_953_472_u64 }),
        claims: vec![Claim { resource: format!("vdi/{n}"), mode: ClaimMode::Exclusive }],
        groups: vec![Group { class: "sr".into(), name: "6c0b1a55".into() }],
        retry: RetryPolicy::default(),
        ..NewJob::new("import", properties)
    };
    engine.submit(new, |_| std::future::pending::<JobEnd>()).await.unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_queued_jobs_cost_less_than_fifty_mebibytes_and_are_aborted_within_five_seconds() {
    let config = EngineConfig {
        workers: 2,
        limits: AdmissionLimits { concurrent: 1, ..AdmissionLimits::default() },
        ..EngineConfig::default()
    };
    let engine = Engine::start(config, Arc::new(MemoryJournal::new())).unwrap();
    let handle = engine.handle();
    // The threads' stacks and the first allocations are not the queue's.
    let mut at_work = submit(handle, 0).await;
    let before = resident_bytes();
    let mut tickets = Vec::new();
    let begun = Instant::now();
    for n in 1..=1000 {
        tickets.push(submit(handle, n).await);
    }
    let submitted = begun.elapsed();
    assert_eq!(handle.tasks().iter().filter(|task| task.state() == JobState::Queued).count(), 1000);
    // Long enough that the sampler has looked at all of them a few times.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let cost = resident_bytes().saturating_sub(before);

    let begun = Instant::now();
    for ticket in &tickets {
        handle.abort(ticket.id()).await.unwrap();
    }
    handle.abort(at_work.id()).await.unwrap();
    for ticket in tickets.iter_mut().chain([&mut at_work]) {
        assert_eq!(ticket.end().await, JobEnd::Aborted);
    }
    let aborted = begun.elapsed();
    eprintln!("1000 queued: {} KiB, submitted in {submitted:?}, aborted in {aborted:?}", cost / 1024);
    assert!(cost < 50 * MIB, "{} MiB", cost / MIB);
    assert!(aborted < Duration::from_secs(5), "{aborted:?}");
    engine.stop().await;
}
