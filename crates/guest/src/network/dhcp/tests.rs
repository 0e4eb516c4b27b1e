//! The client against servers that answer, lie, refuse and keep silent, under a clock of the test's own.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::packet::tests::{ADDRESS, HARDWARE, SERVER, reply};
use super::{Action, Client, Lease};

const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 9);
const HOUR: u64 = 3_600;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Kind of the message, its number, and to whom, of what is sent among the actions.
fn sent(actions: &[Action]) -> Vec<(u8, u32, Option<Ipv4Addr>)> {
    let read = |action: &Action| match action {
        Action::Send(to, bytes) => Some((bytes[242], u32::from_be_bytes(bytes[4..8].try_into().unwrap()), *to)),
        _ => None,
    };
    actions.iter().filter_map(read).collect()
}

fn taken(actions: &[Action]) -> Option<&Lease> {
    actions.iter().find_map(|action| match action {
        Action::Take(lease) => Some(&**lease),
        _ => None,
    })
}

fn answer(kind: u8, number: u32, server: Ipv4Addr) -> Vec<u8> {
    let span = u32::try_from(HOUR).unwrap().to_be_bytes();
    reply(kind, number, &[(54, &server.octets()), (51, &span), (1, &[255, 255, 255, 0])])
}

/// A client that asked at 0 and was given a lease of an hour.
fn bound() -> Client {
    let mut client = Client::new(HARDWARE, "wine", 1);
    let [(1, number, None)] = sent(&client.link_up(at(0)))[..] else { panic!() };
    let [(3, same, None)] = sent(&client.receive(at(0), &answer(2, number, SERVER)))[..] else { panic!() };
    assert_eq!(number, same);
    assert_eq!(taken(&client.receive(at(1), &answer(5, number, SERVER))).unwrap().address, ADDRESS);
    assert!(!client.is_without());
    client
}

/// Goes through time until `end`, doing what is due; what was sent, and when.
fn play(client: &mut Client, end: Duration) -> Vec<(Duration, Action)> {
    let mut done = Vec::new();
    while let Some(now) = client.wake().filter(|&now| now <= end) {
        done.extend(client.tick(now).into_iter().map(|action| (now, action)));
        assert!(client.wake().is_none_or(|next| next > now), "it would turn in a circle");
    }
    done
}

#[test]
fn an_address_is_renewed_at_half_rebound_at_seven_eighths_and_lost_at_the_end() {
    let mut client = bound();
    let done = play(&mut client, at(HOUR));
    let actions: Vec<Action> = done.iter().map(|(_, action)| action.clone()).collect();
    let kinds = sent(&actions);
    let first =
        |wanted: &dyn Fn(&Action) -> bool| done.iter().find(|(_, action)| wanted(action)).map(|(when, _)| *when);
    assert_eq!(first(&|action| matches!(action, Action::Send(Some(SERVER), _))), Some(at(HOUR / 2)));
    assert_eq!(first(&|action| matches!(action, Action::Send(None, _))), Some(at(HOUR / 8 * 7)));
    assert_eq!(first(&|action| matches!(action, Action::Lose(_))), Some(at(HOUR)));
    assert!(kinds.iter().filter(|(kind, ..)| *kind == 3).count() < 40, "{}", kinds.len());
    assert_eq!(kinds.last().unwrap().0, 1, "it looks for a new one at once");
    assert!(client.is_without());
}

#[test]
fn a_renewed_address_lasts_from_when_it_was_asked_for() {
    let mut client = bound();
    let half = at(HOUR / 2);
    let [(3, number, Some(SERVER))] = sent(&client.tick(half))[..] else { panic!() };
    assert!(client.receive(half, &answer(5, number.wrapping_add(1), SERVER)).is_empty());
    assert!(client.receive(half, &answer(5, number, OTHER)).is_empty(), "another server was not asked");
    assert!(client.receive(half, &answer(6, number, OTHER)).is_empty());
    assert!(taken(&client.receive(half + at(1), &answer(5, number, SERVER))).is_some());
    assert_eq!(client.wake(), Some(at(HOUR)));
    assert!(client.receive(half + at(1), &answer(5, number, SERVER)).is_empty(), "once is enough");
}

#[test]
fn any_server_may_answer_when_all_are_asked() {
    let mut client = bound();
    let late = at(HOUR / 8 * 7);
    let [(3, number, None)] = sent(&client.tick(late))[..] else { panic!() };
    assert_eq!(taken(&client.receive(late, &answer(5, number, OTHER))).unwrap().server, OTHER);
}

#[test]
fn an_address_that_is_taken_back_is_given_up_at_once() {
    let mut client = bound();
    let [(3, number, _)] = sent(&client.tick(at(HOUR / 2)))[..] else { panic!() };
    let actions = client.receive(at(HOUR / 2), &answer(6, number, SERVER));
    assert!(matches!(actions[..], [Action::Lose(_), Action::Refused(Some(SERVER))]), "{actions:?}");
    assert!(client.is_without());
    assert_eq!(sent(&client.tick(at(HOUR / 2 + 1)))[0].0, 1);
}

#[test]
fn refusals_are_met_with_patience() {
    let mut client = Client::new(HARDWARE, "wine", 1);
    let mut asked = sent(&client.link_up(at(0)));
    let mut now = at(0);
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        let number = asked[0].1;
        let _ = client.receive(now, &answer(2, number, SERVER));
        assert!(client.receive(now, &answer(6, number, OTHER)).is_empty(), "it was not asked");
        assert_eq!(client.receive(now, &answer(6, number, SERVER)), [Action::Refused(Some(SERVER))]);
        assert_eq!(client.wake(), Some(now + at(pause)));
        now += at(pause);
        asked = sent(&client.tick(now));
    }
}

#[test]
fn without_a_server_it_asks_less_and_less_and_tells_so() {
    let mut client = Client::new(HARDWARE, "wine", 1);
    let mut done: Vec<(Duration, Action)> = client.link_up(at(0)).into_iter().map(|action| (at(0), action)).collect();
    done.extend(play(&mut client, at(HOUR)));
    let sent: Vec<Duration> =
        done.iter().filter(|(_, action)| matches!(action, Action::Send(..))).map(|(when, _)| *when).collect();
    let pauses: Vec<u64> = sent.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 64, 64]);
    assert!(pauses.iter().all(|pause| *pause <= 64));
    let told = done.iter().filter_map(|(_, action)| match action {
        Action::Unanswered(count) => Some(*count),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [4, 8, 16, 32]);
}

#[test]
fn an_offer_that_is_not_kept_leads_to_others() {
    let mut client = Client::new(HARDWARE, "wine", 1);
    let number = sent(&client.link_up(at(0)))[0].1;
    let _ = client.receive(at(0), &answer(2, number, SERVER));
    assert!(client.receive(at(0), &answer(5, number, OTHER)).is_empty(), "whose offer was not taken");
    let actions: Vec<Action> = play(&mut client, at(30)).into_iter().map(|(_, action)| action).collect();
    let kinds: Vec<u8> = sent(&actions).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds[..4], [3, 3, 3, 1]);
}

#[test]
fn behind_a_new_link_the_address_is_asked_for_anew_and_kept_meanwhile() {
    let mut client = bound();
    client.link_down();
    assert!(!client.is_without());
    let [(3, number, None)] = sent(&client.link_up(at(60)))[..] else { panic!() };
    let mut silent = client.wake();
    assert!(silent.is_some_and(|next| next < at(63)));
    let actions = client.receive(at(61), &answer(6, number, OTHER));
    assert!(matches!(actions[0], Action::Lose(_)));
    // Nobody knows it and nobody answers: it is kept to its end.
    client = bound();
    let _ = client.link_up(at(60));
    silent =
        play(&mut client, at(2 * HOUR)).iter().find(|(_, action)| matches!(action, Action::Lose(_))).map(|(at, _)| *at);
    assert_eq!(silent, Some(at(HOUR)));
}

#[test]
fn a_lease_without_an_end_is_not_renewed() {
    let mut client = Client::new(HARDWARE, "wine", 1);
    let number = sent(&client.link_up(at(0)))[0].1;
    let _ = client.receive(at(0), &reply(2, number, &[(54, &SERVER.octets())]));
    assert!(taken(&client.receive(at(0), &reply(5, number, &[(54, &SERVER.octets())]))).is_some());
    assert_eq!(client.wake(), None);
    // But asked for behind a new link, and then left alone again.
    assert_eq!(sent(&client.link_up(at(9)))[0].0, 3);
    assert!(client.wake().is_some());
}

#[test]
fn without_a_link_nothing_is_sent() {
    let mut client = Client::new(HARDWARE, "wine", 1);
    assert!(client.tick(at(9)).is_empty() && client.wake().is_none());
    let number = sent(&client.link_up(at(10)))[0].1;
    client.link_down();
    assert!(client.receive(at(11), &answer(2, number, SERVER)).is_empty());
    assert_eq!(client.wake(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Tick,
    Up,
    Down,
    Reply(u8, bool, Vec<u8>),
    Noise(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        4 => Just(Step::Tick),
        1 => Just(Step::Up),
        1 => Just(Step::Down),
        6 => (prop_oneof![Just(2u8), Just(5), Just(6), any::<u8>()], any::<bool>(), bytes(60)).prop_map(|(kind, ours, more)| Step::Reply(kind, ours, more)),
        1 => bytes(400).prop_map(Step::Noise),
    ]
}

proptest! {
    /// Whatever a server on the link sends: one question a second at most (and one for each reply that was read), addresses no longer
    /// than they last, and always another try.
    #[test]
    fn no_server_breaks_it(steps in proptest::collection::vec((0..200_000u64, step()), 1..60)) {
        let mut client = Client::new(HARDWARE, "wine", 1);
        let (mut now, mut up, mut number) = (Duration::ZERO, false, 0);
        let mut ends: Option<Duration> = None;
        for (pause, step) in steps {
            now += Duration::from_millis(pause);
            let actions = match step {
                Step::Tick => client.tick(now),
                Step::Up => { up = true; client.link_up(now) }
                Step::Down => { up = false; client.link_down(); Vec::new() }
                Step::Reply(kind, ours, more) => {
                    let server = if ours { SERVER } else { OTHER };
                    let mut bytes = reply(kind, number, &[(54, &server.octets())]);
                    bytes.pop();
                    bytes.extend(more);
                    client.receive(now, &bytes)
                }
                Step::Noise(bytes) => client.receive(now, &bytes),
            };
            prop_assert!(sent(&actions).len() <= 2, "{actions:?}");
            let due = client.tick(now);
            for action in actions.iter().chain(&due) {
                match action {
                    Action::Take(lease) => ends = lease.span.and_then(|span| now.checked_add(span)),
                    Action::Lose(_) => ends = None,
                    _ => {}
                }
            }
            number = sent(&[actions, due].concat()).last().map_or(number, |(_, number, _)| *number);
            prop_assert!(ends.is_none_or(|end| now < end + at(1)), "an address that ran out");
            if up || !client.is_without() {
                prop_assert!(client.wake().is_none_or(|wake| wake > now));
                prop_assert!(!client.is_without() || client.wake().is_some(), "it gave up");
            }
        }
    }
}
