use super::*;
use crate::id::JobIds;

struct Queue {
    admission: Admission,
    ids: JobIds,
    now: Duration,
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn limits(concurrent: u32, per_owner: u32, per_sr: u32) -> AdmissionLimits {
    AdmissionLimits { concurrent, per_owner, per_group: BTreeMap::from([("sr".into(), per_sr)]) }
}

impl Queue {
    fn new(limits: AdmissionLimits) -> Self {
        Self { admission: Admission::new(limits), ids: JobIds::after(None), now: Duration::ZERO }
    }

    fn offer(&mut self, owner: &str, priority: i32, claims: &[(&str, ClaimMode)], sr: &str) -> JobId {
        let id = self.ids.next(1);
        let claims = claims
            .iter()
            .map(|(resource, mode)| Claim { resource: (*resource).into(), mode: *mode })
            .collect();
        let groups = [Group { class: "sr".into(), name: sr.into() }].into();
        let needs = Needs { owner: Some(owner.into()), priority, claims, groups };
        self.admission.offer(id, needs, self.now, Duration::ZERO);
        id
    }

    fn plain(&mut self, owner: &str) -> JobId {
        self.offer(owner, 0, &[], "one")
    }

    fn admit(&mut self) -> Vec<JobId> {
        self.admission.admit(self.now)
    }

    fn reason(&self, id: JobId) -> Waiting {
        self.admission.waits(self.now).into_iter().find(|(other, _)| *other == id).unwrap().1
    }
}

#[test]
fn without_limits_everybody_begins_at_once_and_in_the_order_of_coming() {
    let mut queue = Queue::new(AdmissionLimits::default());
    let ids: Vec<_> = (0..200).map(|_| queue.plain("a")).collect();
    assert_eq!(queue.admit(), ids);
    assert_eq!(queue.admission.waiting(), 0);
}

#[test]
fn each_limit_holds_and_says_its_name_and_its_number() {
    for (limits, scope, limit) in
        [(limits(2, 0, 0), "all", 2), (limits(0, 2, 0), "owner", 2), (limits(0, 0, 2), "sr", 2)]
    {
        let mut queue = Queue::new(limits);
        let ids: Vec<_> = (0..4).map(|_| queue.plain("a")).collect();
        assert_eq!(queue.admit(), ids[..2], "{scope}");
        assert!(queue.admit().is_empty());
        let waits = queue.reason(ids[3]);
        assert_eq!(waits, Waiting { reason: WaitReason::Limit { scope: scope.into(), limit }, place: 2 });
        queue.admission.leave(ids[0]);
        assert_eq!(queue.admit(), [ids[2]]);
        assert_eq!(queue.reason(ids[3]).place, 1);
    }
}

#[test]
fn who_is_held_up_by_a_limit_of_his_own_is_passed_by_others() {
    let mut queue = Queue::new(limits(0, 0, 1));
    let first = queue.plain("a");
    let second = queue.plain("a");
    let elsewhere = queue.offer("a", 0, &[], "two");
    assert_eq!(queue.admit(), [first, elsewhere]);
    queue.admission.leave(first);
    assert_eq!(queue.admit(), [second]);
}

#[test]
fn owners_take_turns_however_many_jobs_each_has() {
    let mut queue = Queue::new(limits(1, 0, 0));
    let many: Vec<_> = (0..10).map(|_| queue.plain("many")).collect();
    queue.now = seconds(300);
    let few: Vec<_> = (0..2).map(|_| queue.plain("few")).collect();
    let mut order = Vec::new();
    while let [next] = queue.admit()[..] {
        order.push(next);
        queue.admission.leave(next);
        queue.now += seconds(1);
    }
    assert_eq!(order.len(), 12);
    let places: Vec<_> = few.iter().map(|id| order.iter().position(|other| other == id).unwrap()).collect();
    assert!(places[0] <= 2 && places[1] <= 4, "{places:?}");
    assert_eq!(order[0], many[0]);
}

#[test]
fn the_more_urgent_job_is_first_until_waiting_has_outweighed_it() {
    let mut queue = Queue::new(limits(1, 0, 0));
    let running = queue.plain("a");
    queue.admit();
    let low = queue.offer("b", 0, &[], "one");
    let high = queue.offer("c", 2, &[], "one");
    assert_eq!(queue.admission.waits(queue.now).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [high, low]);
    queue.now = seconds(180);
    let newer = queue.offer("d", 2, &[], "one");
    let order: Vec<_> = queue.admission.waits(queue.now).iter().map(|(id, _)| *id).collect();
    assert_eq!(order, [high, low, newer], "three minutes outweigh two steps");
    queue.admission.set_priority(newer, 9);
    queue.admission.leave(running);
    assert_eq!(queue.admit(), [newer]);
}

#[test]
fn writers_exclude_each_other_and_a_waiting_writer_is_not_overtaken_by_readers() {
    use ClaimMode::{Exclusive, Shared};
    let mut queue = Queue::new(AdmissionLimits::default());
    let reader = queue.offer("a", 0, &[("vdi/x", Shared)], "one");
    assert_eq!(queue.admit(), [reader]);
    let writer = queue.offer("a", 0, &[("sr/s", Shared), ("vdi/x", Exclusive)], "one");
    let late = queue.offer("a", 0, &[("vdi/x", Shared)], "one");
    let other = queue.offer("a", 0, &[("vdi/y", Exclusive)], "one");
    assert_eq!(queue.admit(), [other]);
    let claim = |holder| WaitReason::Claim { resource: "vdi/x".into(), holder };
    assert_eq!(queue.reason(writer).reason, claim(reader));
    assert_eq!(queue.reason(late).reason, claim(reader).clone_with(writer));
    queue.admission.leave(reader);
    assert_eq!(queue.admit(), [writer]);
    queue.admission.leave(writer);
    assert_eq!(queue.admit(), [late]);
}

impl WaitReason {
    fn clone_with(self, holder: JobId) -> Self {
        match self {
            Self::Claim { resource, .. } => Self::Claim { resource, holder },
            other => other,
        }
    }
}

#[test]
fn a_parked_job_keeps_its_claims_and_gives_its_place_away() {
    let mut queue = Queue::new(limits(1, 0, 0));
    let claim = [("vdi/x", ClaimMode::Exclusive)];
    let parked = queue.offer("a", 0, &claim, "one");
    queue.admit();
    let (rival, other) = (queue.offer("a", 0, &claim, "one"), queue.plain("a"));
    queue.admission.park(parked);
    assert_eq!(queue.admit(), [other]);
    let needs = queue.admission.members[&parked].needs.clone();
    queue.now = seconds(600);
    queue.admission.offer(parked, needs, queue.now, Duration::ZERO);
    let order: Vec<_> = queue.admission.waits(queue.now).iter().map(|(id, _)| *id).collect();
    assert_eq!(order, [rival, parked]);
    queue.admission.leave(other);
    assert_eq!(queue.admit(), [parked], "neither its own claim nor who waits for it is in its way");
    queue.admission.leave(parked);
    assert_eq!(queue.admit(), [rival]);
}

#[test]
fn a_job_that_tries_again_later_is_not_looked_at_before() {
    let mut queue = Queue::new(AdmissionLimits::default());
    let id = queue.ids.next(1);
    let needs = Needs { owner: None, priority: 0, claims: [].into(), groups: [].into() };
    queue.admission.offer(id, needs, seconds(0), seconds(8));
    assert!(queue.admit().is_empty());
    assert_eq!(queue.reason(id).reason, WaitReason::Retry { left: seconds(8) });
    assert_eq!(queue.admission.next_due(seconds(3)), Some(seconds(8)));
    queue.now = seconds(8);
    assert_eq!((queue.admission.next_due(queue.now), queue.admit()), (None, vec![id]));
}

#[test]
fn limits_can_be_changed_while_jobs_run_and_wait() {
    let mut queue = Queue::new(limits(3, 0, 0));
    let ids: Vec<_> = (0..6).map(|_| queue.plain("a")).collect();
    assert_eq!(queue.admit(), ids[..3]);
    queue.admission.set_limits(limits(1, 0, 0));
    queue.admission.leave(ids[0]);
    assert!(queue.admit().is_empty(), "two are still active");
    queue.admission.set_limits(limits(4, 0, 0));
    assert_eq!(queue.admit(), ids[3..5]);
    queue.admission.set_limits(AdmissionLimits::default());
    assert_eq!(queue.admit(), [ids[5]]);
}

#[test]
fn a_queue_of_four_thousand_is_looked_through_in_a_moment() {
    let mut queue = Queue::new(limits(1, 0, 0));
    for n in 0..4000 {
        queue.plain(&format!("user {}", n % 40));
    }
    let begun = std::time::Instant::now();
    assert_eq!(queue.admit().len(), 1);
    assert_eq!(queue.admission.waits(queue.now).len(), 3999);
    assert!(begun.elapsed() < seconds(2), "{:?}", begun.elapsed());
}

#[test]
fn who_had_a_place_until_now_comes_after_who_has_waited_meanwhile() {
    let mut queue = Queue::new(limits(1, 0, 0));
    let first = queue.plain("a");
    assert_eq!(queue.admit(), [first]);
    queue.now = seconds(1);
    let second = queue.plain("a");
    queue.now = seconds(2);
    let other = queue.plain("b");
    queue.now = seconds(50);
    queue.admission.leave(first);
    assert_eq!(queue.admit(), [other], "a had the place for all that time");
    queue.admission.leave(other);
    assert_eq!(queue.admit(), [second]);
}
