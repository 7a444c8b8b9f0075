//! The progress sampler: one beat for all jobs, so that a chunk costs no message.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::{Actor, AsyncContext, Context};

use crate::id::JobId;
use crate::lifecycle::JobState;
use crate::progress::Meter;
use crate::root::DeathWatch;
use crate::shared::{Shared, TaskChange};

pub(crate) struct Sampler {
    shared: Arc<Shared>,
    meters: HashMap<JobId, Meter>,
    _death: DeathWatch,
}

impl Sampler {
    pub(crate) fn start_supervised(shared: &Arc<Shared>, death: DeathWatch) {
        Self { shared: Arc::clone(shared), meters: HashMap::new(), _death: death }.start();
    }

    fn beat(&mut self) {
        let (elapsed, now_ms) = (self.shared.elapsed(), self.shared.now_ms());
        let config = &self.shared.config;
        let mut at_work = HashSet::new();
        for entry in self.shared.board.entries() {
            let Some(live) = entry.live else { continue };
            // Nobody expects bytes of a job that is held up on purpose.
            let held_up = entry.record.state != JobState::Running;
            at_work.insert(live.id);
            let meter = self.meters.entry(live.id).or_insert_with(|| {
                // Begun between two beats; the last one is close enough.
                let begun = elapsed.saturating_sub(config.sample_every);
                Meter::new(config.rate_window, config.stall_after, begun)
            });
            if live.progress.sample(meter, held_up, elapsed, now_ms) {
                self.shared.announce(TaskChange::Updated(live.id));
            }
        }
        self.meters.retain(|id, _| at_work.contains(id));
    }
}

impl Actor for Sampler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.shared.config.sample_every, |this, _| this.beat());
    }
}
