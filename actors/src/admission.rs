//! Who may begin next: priorities that grow with waiting, fairness between owners, limits, claims. No actix,
//! no IO; the time goes in as an argument.
//!
//! A job *waits* for a place, *is active* with one, or is *parked*: it keeps what it has claimed, but its place
//! is somebody else's (it is paused, or its client has left).
//!
//! The order in which waiting jobs are looked at: first the owner, by the priority of his best job plus one for
//! each [`AGEING`] since he last got a place, then by who has fewest jobs active, then by who has gone without a
//! place for longest; within an owner by priority plus one for each [`AGEING`] of waiting. A job that a limit holds up is passed
//! by those that it does not; a job that a claim holds up is passed too, but not by claims on what it waits for:
//! otherwise readers could keep a writer waiting for ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::id::JobId;
use crate::record::{Claim, ClaimMode, Group};

/// Waiting that outweighs one step of priority.
const AGEING: Duration = Duration::from_secs(60);

/// How many jobs may be active at once. 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Of all.
    pub concurrent: u32,
    /// Of one owner.
    pub per_owner: u32,
    /// Of one group, by the groups' class.
    pub per_group: BTreeMap<String, u32>,
}

/// Why a job that is queued is not active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// As many jobs as may be are active already.
    Limit {
        /// Of what: `all`, `owner`, or the class of a group.
        scope: Arc<str>,
        /// The limit.
        limit: u32,
    },
    /// Another job has claimed what this one needs.
    Claim {
        /// What it is.
        resource: Arc<str>,
        /// Who has it, or stands before this one in the queue for it.
        holder: JobId,
    },
    /// It failed and will try again.
    Retry {
        /// In how long.
        left: Duration,
    },
    /// Nothing; it is about to begin.
    Turn,
}

/// How a queued job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Why it waits.
    pub reason: WaitReason,
    /// Its place in the queue; 1 is the next.
    pub place: usize,
}

/// What a job needs while it is active.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) owner: Option<String>,
    pub(crate) priority: i32,
    pub(crate) claims: Arc<[Claim]>,
    pub(crate) groups: Arc<[Group]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Since when, and not before when.
    Waiting {
        since: Duration,
        not_before: Duration,
    },
    Active,
    Parked,
}

#[derive(Debug)]
struct Member {
    needs: Needs,
    standing: Standing,
    /// Whether its claims are taken: from its first activity until it leaves.
    holds: bool,
    /// Whether others wait behind its claims although it waits itself.
    blocks: bool,
}

impl Member {
    fn waits(&self) -> bool {
        matches!(self.standing, Standing::Waiting { .. })
    }
}

/// The members of the queue and of those who have passed it.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    limits: AdmissionLimits,
    members: BTreeMap<JobId, Member>,
    active: Counts,
    /// Ids of members that wait.
    queue: Vec<JobId>,
    /// Those of them that wait for a time, by that.
    later: BTreeSet<(Duration, JobId)>,
    /// Nobody who waits can begin, as long as nothing is given back, no limit changes, and nobody is due: so that
    /// many may come and go in a long queue and nobody looks through it.
    stuck: bool,
    /// When each owner who waits or is active last got a place, or had one.
    served: HashMap<Option<String>, Duration>,
    /// Owners of jobs that have given a place away since the queue was last looked at.
    left: Vec<Option<String>>,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    all: u32,
    owners: HashMap<Option<String>, u32>,
    groups: HashMap<Group, u32>,
}

impl Counts {
    fn add(&mut self, needs: &Needs) {
        self.all += 1;
        *self.owners.entry(needs.owner.clone()).or_default() += 1;
        for group in needs.groups.iter() {
            *self.groups.entry(group.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, needs: &Needs) {
        self.all = self.all.saturating_sub(1);
        decrease(&mut self.owners, &needs.owner);
        for group in needs.groups.iter() {
            decrease(&mut self.groups, group);
        }
    }

    fn of_owner(&self, owner: &Option<String>) -> u32 {
        self.owners.get(owner).copied().unwrap_or_default()
    }
}

fn decrease<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Claims that stand in the way: those that are held, and those of jobs that wait for one of them.
#[derive(Debug, Default)]
struct Claimed<'a>(HashMap<&'a str, Claimants>);

/// Of those who have claimed a thing, the first, and the first who wants it for himself.
#[derive(Debug)]
struct Claimants {
    any: JobId,
    exclusive: Option<JobId>,
}

impl<'a> Claimed<'a> {
    fn add(&mut self, id: JobId, claims: &'a [Claim]) {
        for claim in claims {
            let claimants = self.0.entry(&claim.resource).or_insert(Claimants { any: id, exclusive: None });
            if claim.mode == ClaimMode::Exclusive {
                claimants.exclusive.get_or_insert(id);
            }
        }
    }

    /// What of these somebody else has, and who. The claims of whoever asks must not be among them.
    fn in_the_way(&self, claims: &'a [Claim]) -> Option<(&'a str, JobId)> {
        claims.iter().find_map(|claim| {
            let claimants = self.0.get(claim.resource.as_str())?;
            let holder = match claim.mode {
                ClaimMode::Exclusive => claimants.any,
                ClaimMode::Shared => claimants.exclusive?,
            };
            Some((claim.resource.as_str(), holder))
        })
    }
}

impl Admission {
    pub(crate) fn new(limits: AdmissionLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(crate) fn set_limits(&mut self, limits: AdmissionLimits) {
        self.stuck &= self.limits == limits;
        self.limits = limits;
    }

    /// A job wants a place; not before `not_before`. One that waits already keeps its place in time.
    pub(crate) fn offer(&mut self, id: JobId, needs: Needs, now: Duration, not_before: Duration) {
        let holds = match self.members.get(&id) {
            Some(Member { standing: Standing::Waiting { .. } | Standing::Active, .. }) => return,
            Some(Member { standing: Standing::Parked, holds, .. }) => *holds,
            None => false,
        };
        let standing = Standing::Waiting { since: now, not_before };
        let mut member = Member { needs, standing, holds, blocks: false };
        if not_before > now {
            self.later.insert((not_before, id));
        } else if self.stuck && self.limit(&member.needs, &self.active).is_none() {
            let mut claimed = Claimed::default();
            for (id, member) in self.members.iter().filter(|(_, member)| member.holds) {
                claimed.add(*id, &member.needs.claims);
            }
            member.blocks = !holds && claimed.in_the_way(&member.needs.claims).is_some();
            self.stuck = member.blocks;
        }
        self.queue.push(id);
        self.members.insert(id, member);
    }

    /// A job is active without having waited: it was at work before this table was made.
    pub(crate) fn occupy(&mut self, id: JobId, needs: Needs) {
        self.leave(id);
        self.active.add(&needs);
        self.members.insert(id, Member { needs, standing: Standing::Active, holds: true, blocks: false });
    }

    /// A job gives its place away, and keeps its claims if it has taken them.
    pub(crate) fn park(&mut self, id: JobId) {
        let Some(mut member) = self.members.remove(&id) else { return };
        self.stand_down(id, &member);
        member.standing = Standing::Parked;
        member.blocks = false;
        let holds = member.holds;
        self.members.insert(id, member);
        if !holds {
            self.members.remove(&id);
        }
    }

    /// A job at work has no place, but what it has claimed.
    pub(crate) fn occupy_parked(&mut self, id: JobId, needs: Needs) {
        self.leave(id);
        self.members.insert(id, Member { needs, standing: Standing::Parked, holds: true, blocks: false });
    }

    /// A job needs nothing any more.
    pub(crate) fn leave(&mut self, id: JobId) {
        let Some(member) = self.members.remove(&id) else { return };
        self.stand_down(id, &member);
        self.stuck &= !member.holds || member.needs.claims.is_empty();
        // Owners who have gone are forgotten now and then.
        if self.served.len() > 2 * self.members.len() {
            let owners: HashSet<_> = self.members.values().map(|member| &member.needs.owner).collect();
            self.served.retain(|owner, _| owners.contains(owner));
        }
    }

    /// Gives back the place in the limits or in the queue.
    fn stand_down(&mut self, id: JobId, member: &Member) {
        match member.standing {
            Standing::Active => {
                self.active.remove(&member.needs);
                self.left.push(member.needs.owner.clone());
                self.stuck = false;
            }
            Standing::Waiting { not_before, .. } => {
                self.queue.retain(|other| *other != id);
                self.later.remove(&(not_before, id));
                self.stuck &= !member.blocks;
            }
            Standing::Parked => {}
        }
    }

    pub(crate) fn set_priority(&mut self, id: JobId, priority: i32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.needs.priority = priority;
            // Before others it may wait for a claim that they have waited for.
            self.stuck = false;
        }
    }

    /// Whether the job has a place.
    pub(crate) fn is_active(&self, id: JobId) -> bool {
        self.members.get(&id).is_some_and(|member| member.standing == Standing::Active)
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Gives places to all who may have one now. Answers them in order.
    pub(crate) fn admit(&mut self, now: Duration) -> Vec<JobId> {
        // Whoever has just had a place has gone without for no time, however long ago he got it.
        self.served.extend(self.left.drain(..).map(|owner| (owner, now)));
        while let Some((due, id)) = self.later.first().copied().filter(|(due, _)| *due <= now) {
            self.later.remove(&(due, id));
            self.stuck = false;
        }
        if self.stuck || self.queue.is_empty() || reached(self.limits.concurrent, self.active.all) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (id, held_up) in self.look(now) {
            if held_up.is_none() {
                due.push(id);
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.blocks = matches!(held_up, Some(WaitReason::Claim { .. }));
            }
        }
        self.stuck = true;
        for id in &due {
            let Some(member) = self.members.get_mut(id) else { continue };
            member.standing = Standing::Active;
            member.holds = true;
            self.active.add(&member.needs);
            self.served.insert(member.needs.owner.clone(), now);
        }
        let members = &self.members;
        self.queue.retain(|id| members.get(id).is_some_and(Member::waits));
        due
    }

    /// How each job that waits stands.
    pub(crate) fn waits(&self, now: Duration) -> Vec<(JobId, Waiting)> {
        let standing = |(place, (id, held_up)): (usize, (JobId, Option<WaitReason>))| {
            (id, Waiting { reason: held_up.unwrap_or(WaitReason::Turn), place: place + 1 })
        };
        self.look(now).into_iter().enumerate().map(standing).collect()
    }

    /// When the next job that tries again later is due.
    pub(crate) fn next_due(&self, now: Duration) -> Option<Duration> {
        self.later.iter().map(|(due, _)| *due).find(|due| *due > now)
    }

    /// Goes through the queue in order and says of each what holds it up, as if those before it that nothing
    /// holds up had begun.
    fn look(&self, now: Duration) -> Vec<(JobId, Option<WaitReason>)> {
        let mut counts = self.active.clone();
        let mut claimed = Claimed::default();
        for (id, member) in self.members.iter().filter(|(_, member)| member.holds) {
            claimed.add(*id, &member.needs.claims);
        }
        let mut seen = Vec::with_capacity(self.queue.len());
        for id in self.order(now) {
            let Some(member) = self.members.get(&id) else { continue };
            let held_up = self.held_up(member, &counts, &claimed, now);
            match held_up {
                None => {
                    counts.add(&member.needs);
                    claimed.add(id, &member.needs.claims);
                }
                Some(WaitReason::Claim { .. }) => claimed.add(id, &member.needs.claims),
                Some(_) => {}
            }
            seen.push((id, held_up));
        }
        seen
    }

    fn held_up(
        &self,
        member: &Member,
        counts: &Counts,
        claimed: &Claimed<'_>,
        now: Duration,
    ) -> Option<WaitReason> {
        if let Standing::Waiting { not_before, .. } = member.standing
            && not_before > now
        {
            return Some(WaitReason::Retry { left: not_before - now });
        }
        let needs = &member.needs;
        // Those that wait for what it holds stand behind it, wherever they are in the queue.
        if !member.holds
            && let Some((resource, holder)) = claimed.in_the_way(&needs.claims)
        {
            return Some(WaitReason::Claim { resource: resource.into(), holder });
        }
        self.limit(needs, counts)
    }

    /// The limit that holds up a job that needs these, when so many are active.
    fn limit(&self, needs: &Needs, counts: &Counts) -> Option<WaitReason> {
        let limit = |scope: &str, limit: u32| Some(WaitReason::Limit { scope: scope.into(), limit });
        if reached(self.limits.concurrent, counts.all) {
            return limit("all", self.limits.concurrent);
        }
        if needs.owner.is_some() && reached(self.limits.per_owner, counts.of_owner(&needs.owner)) {
            return limit("owner", self.limits.per_owner);
        }
        needs.groups.iter().find_map(|group| {
            let most = self.limits.per_group.get(&group.class).copied().unwrap_or_default();
            let count = counts.groups.get(group).copied().unwrap_or_default();
            if reached(most, count) { limit(&group.class, most) } else { None }
        })
    }

    /// The queue in the order in which it is looked at.
    fn order(&self, now: Duration) -> Vec<JobId> {
        /// One owner's jobs, best last, so that the next is popped.
        struct Line {
            jobs: Vec<(i64, Reverse<Duration>, Reverse<JobId>)>,
            active: u32,
            last_served: Option<Duration>,
        }
        let mut lines: BTreeMap<&Option<String>, Line> = BTreeMap::new();
        for id in &self.queue {
            let Some(Member { needs, standing: Standing::Waiting { since, .. }, .. }) = self.members.get(id)
            else {
                continue;
            };
            let line = lines.entry(&needs.owner).or_insert_with(|| Line {
                jobs: Vec::new(),
                active: self.active.of_owner(&needs.owner),
                last_served: self.served.get(&needs.owner).copied(),
            });
            let score = i64::from(needs.priority) + aged(now.saturating_sub(*since));
            line.jobs.push((score, Reverse(*since), Reverse(*id)));
        }
        let mut lines: Vec<Line> = lines.into_values().collect();
        lines.iter_mut().for_each(|line| line.jobs.sort_unstable());
        let weigh = |line: &Line| {
            let (_, Reverse(since), Reverse(id)) = line.jobs.last()?;
            let priority = self.members.get(id)?.needs.priority;
            let neglected_since = line.last_served.map_or(*since, |served| served.max(*since));
            let score = i64::from(priority) + aged(now.saturating_sub(neglected_since));
            // Of two who have gone without for equally long, he is first who has had no turn yet.
            let turn = (Reverse(neglected_since), Reverse(line.last_served));
            Some((score, Reverse(line.active), turn, Reverse(*since), Reverse(*id)))
        };
        let mut order = Vec::with_capacity(self.queue.len());
        let mut best: BinaryHeap<_> =
            lines.iter().enumerate().filter_map(|(place, line)| Some((weigh(line)?, place))).collect();
        while let Some((_, place)) = best.pop() {
            let Some(line) = lines.get_mut(place) else { break };
            if let Some((_, _, Reverse(id))) = line.jobs.pop() {
                order.push(id);
            }
            // As if it had begun.
            line.active += 1;
            line.last_served = Some(now);
            best.extend(weigh(line).map(|weight| (weight, place)));
        }
        order
    }
}

fn reached(limit: u32, count: u32) -> bool {
    limit > 0 && count >= limit
}

fn aged(waited: Duration) -> i64 {
    i64::try_from(waited.as_secs() / AGEING.as_secs()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
