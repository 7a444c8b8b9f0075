use serde_json::json;

use super::super::known::News;
use super::super::test_support::{principal, seat};
use super::*;
use crate::inventory::{Collection, Place};

const VDIS: Kind = Kind::Objects(Collection::Vdis);

fn limits() -> Limits {
    Limits { stream_bytes: 2000, all_bytes: 1 << 20, streams: 8, user_streams: 4 }
}

fn named(names: &[&str]) -> Form {
    Form::Events(Arc::new(Fields::named(&names.iter().map(ToString::to_string).collect::<Vec<_>>())))
}

fn all() -> Form {
    Form::Events(Arc::new(Fields::All))
}

fn added(id: &str, sr: &str, padding: usize) -> Change {
    let object = json!({ "id": id, "name_label": "n", "padding": "x".repeat(padding) });
    Change { id: id.into(), place: Place::in_sr(sr), news: News::Added(object) }
}

#[tokio::test]
async fn a_stream_is_told_of_what_it_is_subscribed_to_with_the_members_that_it_chose() {
    let registry = Registry::new(limits());
    let (one, two) = (UserId::random(), UserId::random());
    let (first, second) = (
        seat(&registry, principal(one, None)).await.unwrap(),
        seat(&registry, principal(two, None)).await.unwrap(),
    );
    assert!(registry.subscribe(first.id, one, VDIS, all()));
    assert!(registry.subscribe(first.id, one, VDIS, named(&["name_label"])), "again, with other members");
    assert!(registry.subscribe(second.id, two, Kind::Task, all()));
    assert!(registry.is_wanted(VDIS));
    registry.tell(VDIS, &added("a", "sr", 0));
    let expected = "event: add\ndata: {\"$subscription\":\"VDI\",\"name_label\":\"n\"}\n\n";
    assert_eq!(first.take(), (expected.into(), false));
    assert_eq!(second.take(), (String::new(), false));
    assert!(registry.unsubscribe(first.id, one, VDIS));
    assert!(registry.unsubscribe(first.id, one, VDIS), "not being subscribed is no error");
    registry.tell(VDIS, &added("b", "sr", 0));
    assert_eq!(first.take(), (String::new(), false));
    assert!(!registry.is_wanted(VDIS));
}

#[tokio::test]
async fn a_stream_belongs_to_its_user_alone() {
    let registry = Registry::new(limits());
    let (owner, other) = (UserId::random(), UserId::random());
    let stream = seat(&registry, principal(owner, None)).await.unwrap();
    assert!(registry.is_of(stream.id, owner) && !registry.is_of(stream.id, other));
    assert!(!registry.subscribe(stream.id, other, VDIS, all()));
    assert!(!registry.unsubscribe(stream.id, other, VDIS));
    registry.leave(stream.id);
    assert!(!registry.is_of(stream.id, owner));
}

#[tokio::test]
async fn a_limited_token_is_told_of_what_it_sees() {
    let registry = Registry::new(limits());
    let stream = seat(&registry, principal(UserId::random(), Some(&["mine"]))).await.unwrap();
    for kind in [VDIS, Kind::Task] {
        assert!(registry.subscribe(stream.id, stream.user, kind, named(&["id"])));
        registry.tell(kind, &added("a", "theirs", 0));
        registry.tell(kind, &added("b", "mine", 0));
        registry.tell(kind, &Change { id: "c".into(), place: Place::default(), news: News::Removed(None) });
        let (told, _) = stream.take();
        assert!(told.contains("\"b\"") && !told.contains("\"a\"") && !told.contains("\"c\""), "{told}");
    }
}

#[tokio::test]
async fn streams_are_bounded_in_all_and_for_each_user() {
    let registry = Registry::new(limits());
    let greedy = UserId::random();
    let mut seats = Vec::new();
    for _ in 0..4 {
        seats.push(seat(&registry, principal(greedy, None)).await.unwrap());
    }
    assert_eq!(seat(&registry, principal(greedy, None)).await.err(), Some(Refused::OfUser(4)));
    for _ in 0..4 {
        seats.push(seat(&registry, principal(UserId::random(), None)).await.unwrap());
    }
    assert_eq!(seat(&registry, principal(UserId::random(), None)).await.err(), Some(Refused::All(8)));
    registry.leave(seats[0].id);
    assert!(seat(&registry, principal(greedy, None)).await.is_ok());
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_dropped_at_its_bound_and_the_others_lose_nothing() {
    let registry = Registry::new(limits());
    let user = UserId::random();
    let (lazy, busy) = (
        seat(&registry, principal(user, None)).await.unwrap(),
        seat(&registry, principal(user, None)).await.unwrap(),
    );
    for stream in [&lazy, &busy] {
        assert!(registry.subscribe(stream.id, user, VDIS, all()));
    }
    for count in 0..10 {
        registry.tell(VDIS, &added(&count.to_string(), "sr", 500));
        assert!(lazy.outlet.waiting_bytes() <= limits().stream_bytes);
        assert!(busy.take().0.contains("event: add"));
    }
    assert!(lazy.is_cut() && !busy.is_cut());
    assert_eq!(lazy.take(), (String::new(), true));
    assert!(!registry.is_of(lazy.id, user), "it takes no more subscriptions");
}

#[tokio::test]
async fn when_too_much_waits_in_all_streams_the_fullest_goes() {
    let registry = Registry::new(Limits { stream_bytes: 10_000, all_bytes: 10_000, ..limits() });
    let user = UserId::random();
    let (full, other) = (
        seat(&registry, principal(user, None)).await.unwrap(),
        seat(&registry, principal(user, None)).await.unwrap(),
    );
    assert!(registry.subscribe(full.id, user, VDIS, all()));
    registry.tell(VDIS, &added("a", "sr", 6000));
    assert!(registry.subscribe(other.id, user, VDIS, all()));
    registry.tell(VDIS, &added("b", "sr", 2500));
    assert!(full.is_cut() && !other.is_cut());
    assert!(other.take().0.contains("\"b\""));
}

#[tokio::test]
async fn closing_ends_every_stream_after_what_waits_and_opens_no_more() {
    let registry = Registry::new(limits());
    let stream = seat(&registry, principal(UserId::random(), None)).await.unwrap();
    assert!(registry.subscribe(stream.id, stream.user, VDIS, all()));
    registry.tell(VDIS, &added("a", "sr", 0));
    registry.close();
    registry.tell(VDIS, &added("b", "sr", 0));
    let (told, over) = stream.take();
    assert!(over && told.contains("\"a\"") && !told.contains("\"b\""), "{told}");
    assert_eq!(seat(&registry, principal(stream.user, None)).await.err(), Some(Refused::Closing));
    assert!(!stream.is_cut());
}

#[tokio::test]
async fn a_revoked_stream_gets_nothing_more_not_even_what_waits() {
    let registry = Registry::new(limits());
    let stream = seat(&registry, principal(UserId::random(), None)).await.unwrap();
    assert!(registry.subscribe(stream.id, stream.user, VDIS, all()));
    registry.tell(VDIS, &added("a", "sr", 0));
    registry.revoke(stream.id);
    assert_eq!(stream.take(), (String::new(), true));
}
