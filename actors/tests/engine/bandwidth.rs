//! How fast jobs may be: for each sort of limit, while it is changed, within 5 %.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_actors::{
    Adjustment, BandwidthLimits, EngineHandle, Group, JobContext, JobEnd, JobId, MemoryJournal, NewJob,
};

use crate::support::{engine, engine_with, job};

/// Moves bytes as fast as it may.
async fn stream(ctx: JobContext) -> JobEnd {
    let pace = ctx.pace();
    loop {
        let go = pace.quantum().unwrap_or(1 << 16);
        if pace.take(go).await.is_err() {
            return JobEnd::Aborted;
        }
        ctx.progress().add_written(go);
        if pace.quantum().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn submit(engine: &EngineHandle, new: NewJob) -> JobId {
    engine.submit(new, stream).await.unwrap().id()
}

fn on(sr: &str) -> NewJob {
    NewJob { groups: vec![Group { class: "sr".into(), name: sr.into() }], ..job("a") }
}

/// Bytes per second of these jobs, over twenty seconds.
async fn rates(engine: &EngineHandle, ids: &[JobId]) -> Vec<f64> {
    let written =
        || -> Vec<u64> { ids.iter().map(|id| engine.task(*id).unwrap().progress.bytes_written).collect() };
    let before = written();
    tokio::time::sleep(Duration::from_secs(20)).await;
    written().iter().zip(before).map(|(after, before)| (after - before) as f64 / 20.0).collect()
}

fn assert_near(found: f64, rate: f64) {
    assert!((found / rate - 1.0).abs() < 0.05, "{found} bytes per second instead of {rate}");
}

#[actix::test]
async fn a_jobs_own_rate_holds_and_can_be_changed_and_lifted_while_it_runs() {
    let engine = engine(MemoryJournal::new());
    let id = submit(&engine, NewJob { bandwidth: Some(1_000_000), ..job("a") }).await;
    assert_near(rates(&engine, &[id]).await[0], 1_000_000.0);
    assert_eq!(engine.task(id).unwrap().to_json()["properties"]["bandwidth"], 1_000_000);
    for rate in [50_000, 20_000_000] {
        let to = Adjustment { bandwidth: Some(Some(rate)), ..Adjustment::default() };
        engine.adjust(id, to).await.unwrap();
        assert_near(rates(&engine, &[id]).await[0], rate as f64);
    }
    let to = Adjustment { bandwidth: Some(None), ..Adjustment::default() };
    engine.adjust(id, to).await.unwrap();
    assert!(rates(&engine, &[id]).await[0] > 25_000_000.0, "nothing but its own sleeps holds it");
    assert_eq!(engine.task(id).unwrap().to_json()["properties"].get("bandwidth"), None);
}

#[actix::test]
async fn jobs_of_a_group_share_its_rate_and_all_share_the_total() {
    let engine = engine_with(MemoryJournal::new(), |config| {
        config.bandwidth =
            BandwidthLimits { total: 0, per_group: BTreeMap::from([("sr".into(), 1_000_000)]) };
    });
    let ids =
        [submit(&engine, on("x")).await, submit(&engine, on("x")).await, submit(&engine, on("y")).await];
    let found = rates(&engine, &ids).await;
    assert_near(found[0] + found[1], 1_000_000.0);
    assert_near(found[0], found[1]);
    assert_near(found[2], 1_000_000.0);
    engine.set_bandwidth(BandwidthLimits {
        total: 600_000,
        per_group: BTreeMap::from([("sr".into(), 5_000_000)]),
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let found = rates(&engine, &ids).await;
    assert_near(found.iter().sum(), 600_000.0);
    engine.pause(ids[2]).await.unwrap();
    let found = rates(&engine, &ids).await;
    assert_near(found[0] + found[1], 600_000.0);
    assert!(found[2] < 1000.0, "{found:?}: a paused job takes no part of it");
}
