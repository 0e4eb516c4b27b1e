//! Sessions and arms: who is answered by whom, on one gateway and on two, through growing shares, deaths and several services.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};

use common::caller::{Caller, Reply};
use common::instance::{Instance, Seen, answer, reset};
use common::machine::Machine;
use common::{Gateway, table, table_with, wait_for};
use modelyard_core::affinity::{Affinity, AffinityRoute, KeySource, hash, owner, point, stretches};
use modelyard_core::route::{RouteTable, ServiceRoute};
use modelyard_core::{Millis, RevisionNumber, ServiceName, Weight};

const PATH: &str = "/v2/models/wine/infer";
const SALT: &str = "wine-7";

fn rule(by: KeySource, name: Option<&str>) -> Affinity {
    Affinity { by, name: name.map(str::to_owned), lifetime: None }
}

fn affinity(rule: Affinity, starts: &[(u32, u16)]) -> AffinityRoute {
    let starts = starts.iter().map(|&(revision, start)| (RevisionNumber(revision), start)).collect();
    AffinityRoute { rule, salt: SALT.to_owned(), secret: "5a".repeat(32), starts }
}

fn sticky(rule: Affinity, starts: &[(u32, u16)]) -> impl FnOnce(&mut ServiceRoute) {
    let affinity = affinity(rule, starts);
    move |route| route.affinity = Some(affinity)
}

fn by_user(starts: &[(u32, u16)]) -> impl FnOnce(&mut ServiceRoute) {
    sticky(rule(KeySource::Header, Some("x-user")), starts)
}

/// The revision that answers a request with these fields.
fn ask(caller: &mut Caller, fields: &str) -> u32 {
    let reply = caller.send("POST", PATH, fields, b"{}").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("modelyard-revision").parse().unwrap()
}

/// The revision that answers each of `count` users.
fn ask_all(caller: &mut Caller, count: u32) -> Vec<u32> {
    (0..count).map(|user| ask(caller, &format!("x-user: user-{user}\r\n"))).collect()
}

/// Name, value and attributes of the cookie that an answer sets.
fn cookie(reply: &Reply) -> (String, String, String) {
    let (pair, attributes) = reply.header("set-cookie").split_once("; ").unwrap();
    let (name, value) = pair.split_once('=').unwrap();
    (name.to_owned(), value.to_owned(), attributes.to_owned())
}

#[test]
fn nobody_changes_arm_while_shares_grow() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let mut caller = Caller::connect(gateway.address);
    let mut before: Option<Vec<u32>> = None;
    for (generation, share) in (1..).zip([1_000, 2_500, 5_000, 10_000]) {
        let pools = [(1, 10_000 - share, &[one.address][..]), (2, share, &[two.address][..])];
        gateway.put(&table_with(generation, &pools, by_user(&[(2, 0)])));
        let now = ask_all(&mut caller, 600);
        assert_eq!(ask_all(&mut caller, 600), now, "asked again, answered by the same");
        // The binomial interval: five standard deviations around the share.
        let (expected, got) = (600.0 * f64::from(share) / 10_000.0, now.iter().filter(|&&arm| arm == 2).count());
        let deviation = (expected * (1.0 - f64::from(share) / 10_000.0)).sqrt();
        assert!((got as f64 - expected).abs() <= 5.0 * deviation, "{got} of 600 at {share}");
        for (was, is) in before.iter().flatten().zip(&now) {
            assert!(was == is || *was == 1, "went from {was} to {is}");
        }
        before = Some(now);
    }
    gateway.end();
}

#[test]
fn four_arms_answer_exactly_their_own_on_two_gateways() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let gateways = [Gateway::start(folder.path()), Gateway::start(other.path())];
    let instances: Vec<Instance> = (0..4).map(|_| Instance::answering("ok")).collect();
    let at = |index: usize| [instances[index].address];
    let (a, b, c, d) = (at(0), at(1), at(2), at(3));
    let starts = [(2, 0), (3, 3_000), (4, 6_000)];
    let table = table_with(1, &[(1, 2_500, &a), (2, 3_000, &b), (3, 2_000, &c), (4, 2_500, &d)], by_user(&starts));
    let route = &table.services[&ServiceName::new("wine").unwrap()];
    let laid = stretches(&route.apis[&1], &route.affinity.as_ref().unwrap().starts);
    let expected = |user: u32| owner(&laid, point(hash(SALT, format!("user-{user}").as_bytes()))).unwrap().0;
    let expected: Vec<u32> = (0..400).map(expected).collect();
    assert_eq!(BTreeMap::from_iter(expected.iter().map(|&arm| (arm, ()))).len(), 4, "every arm has somebody");
    for gateway in &gateways {
        gateway.put(&table);
        let mut caller = Caller::connect(gateway.address);
        assert_eq!(ask_all(&mut caller, 400), expected);
    }
    gateways.into_iter().for_each(Gateway::end);
}

#[test]
fn a_cookie_issued_by_one_gateway_is_known_to_the_other() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let gateways = [Gateway::start(folder.path()), Gateway::start(other.path())];
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let issued = || sticky(rule(KeySource::Issued, None), &[(2, 0)]);
    let table = table_with(1, &[(1, 5_000, &[one.address]), (2, 5_000, &[two.address])], issued());
    gateways.iter().for_each(|gateway| gateway.put(&table));
    let mut callers = [&gateways[0], &gateways[1]].map(|gateway| Caller::connect(gateway.address));
    for round in 0..40 {
        let first = callers[round % 2].post(PATH, b"{}");
        let (name, value, attributes) = cookie(&first);
        assert_eq!((name.as_str(), attributes.as_str()), ("modelyard-session", "Path=/; HttpOnly; SameSite=Lax"));
        for caller in &mut callers {
            let fields = format!("cookie: theme=dark; {name}={value}\r\n");
            let again = caller.send("POST", PATH, &fields, b"{}").unwrap();
            assert_eq!(again.header("modelyard-revision"), first.header("modelyard-revision"));
            assert!(!again.headers.contains_key("set-cookie"), "given once");
        }
    }
    assert_eq!(one.last().header("cookie").len(), 1, "cookies pass untouched");
    assert!(one.count() > 0 && two.count() > 0);
    gateways.into_iter().for_each(Gateway::end);
}

#[test]
fn forged_and_foreign_cookies_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let pools = [(1, 5_000, &[one.address][..]), (2, 5_000, &[two.address][..])];
    let lasting = || Affinity { lifetime: Some(Millis::seconds(3_600)), ..rule(KeySource::Issued, Some("arm")) };
    gateway.put(&table_with(1, &pools, sticky(lasting(), &[(2, 0)])));
    let mut caller = Caller::connect(gateway.address);
    let reply = caller.send("GET", PATH, "x-forwarded-proto: https\r\n", b"").unwrap();
    let (name, value, attributes) = cookie(&reply);
    assert_eq!(name, "arm");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure");
    assert_eq!(reply.header("cache-control"), "private", "what sets a cookie is not for shared caches");
    let keeps = |caller: &mut Caller, value: &str| {
        let reply = caller.send("POST", PATH, &format!("cookie: arm={value}\r\n"), b"{}").unwrap();
        assert_eq!(reply.status, 200);
        !reply.headers.contains_key("set-cookie")
    };
    assert!(keeps(&mut caller, &value));
    let (signed, mac) = value.rsplit_once('.').unwrap();
    let other = if mac.starts_with('A') { "B" } else { "A" };
    for forged in
        [format!("{signed}.{other}{}", &mac[1..]), format!("{signed}0.{mac}"), "v1..".to_owned(), "x".repeat(5_000)]
    {
        assert!(!keeps(&mut caller, &forged), "{forged}");
    }
    assert!(keeps(&mut caller, &format!("forged; arm={value}")), "one of several that is ours will do");
    let mut foreign = affinity(lasting(), &[(2, 0)]);
    foreign.secret = "a5".repeat(32);
    gateway.put(&table_with(2, &pools, |route| route.affinity = Some(foreign)));
    assert!(!keeps(&mut caller, &value), "signed with another key");
    gateway.end();
}

#[test]
fn refusals_set_no_cookie() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let gone = Instance::answering("gone");
    gone.kill();
    let issued = || sticky(rule(KeySource::Issued, None), &[]);
    gateway.put(&table_with(1, &[(1, 10_000, &[gone.address])], issued()));
    let mut caller = Caller::connect(gateway.address);
    for (path, status) in [(PATH, 503), ("/v2/models/beer/infer", 404), ("/wine/v9/x", 404), ("/v2/health/live", 405)] {
        let reply = caller.post(path, b"{}");
        assert_eq!(reply.status, status, "{path}");
        assert!(!reply.headers.contains_key("set-cookie"), "{path}");
    }
    gateway.end();
}

#[test]
fn a_cookie_of_no_use_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let one = Instance::answering("one");
    let pools = [(1, 10_000, &[one.address][..])];
    gateway.put(&table_with(1, &pools, sticky(rule(KeySource::Issued, None), &[])));
    let mut caller = Caller::connect(gateway.address);
    let (_, value, _) = cookie(&caller.post(PATH, b"{}"));
    let send = |caller: &mut Caller, value: &str| {
        caller.send("POST", PATH, &format!("cookie: modelyard-session={value}\r\n"), b"{}").unwrap()
    };
    // Another service still issues it: the cookie stays, whichever service is asked.
    let mut both = table(2, &pools);
    let mut beer = both.services[&ServiceName::new("wine").unwrap()].clone();
    beer.affinity = Some(affinity(rule(KeySource::Issued, None), &[]));
    both.services.insert(ServiceName::new("beer").unwrap(), beer);
    gateway.put(&both);
    assert!(!send(&mut caller, &value).headers.contains_key("set-cookie"));
    gateway.put(&table(3, &pools));
    let (name, value, attributes) = cookie(&send(&mut caller, &value));
    assert_eq!((name.as_str(), value.as_str()), ("modelyard-session", ""));
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    assert!(!send(&mut caller, "an-application-s-own").headers.contains_key("set-cookie"));
    gateway.end();
}

#[test]
fn the_assignment_travels_to_the_instance() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table_with(1, &[(4, 10_000, &[instance.address])], by_user(&[])));
    let mut caller = Caller::connect(gateway.address);
    let forged =
        "modelyard-session: 0000000000000000\r\nbaggage: tenant=a;p=1, modelyard.revision=99\r\nbaggage: b=2\r\n";
    assert_eq!(ask(&mut caller, &format!("x-user: ada\r\n{forged}")), 4);
    let seen = instance.last();
    let session = format!("{:016x}", hash(SALT, b"ada"));
    assert_eq!(seen.header("modelyard-revision"), ["4"]);
    assert_eq!(seen.header("modelyard-session"), [session.as_str()]);
    let baggage = format!("tenant=a;p=1,b=2,modelyard.revision=4,modelyard.session={session}");
    assert_eq!(seen.header("baggage"), [baggage.as_str()]);
    ask(&mut caller, forged);
    let seen = instance.last();
    assert!(seen.header("modelyard-session").is_empty(), "no key, no session, and none that was made up");
    assert_eq!(seen.header("baggage"), ["tenant=a;p=1,b=2,modelyard.revision=4"]);
    gateway.end();
}

#[test]
fn a_line_of_requests_stays_on_its_side_through_several_services() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let pools = [(1, 5_000, &[one.address][..]), (2, 5_000, &[two.address][..])];
    let mut both = table_with(1, &pools, by_user(&[(2, 0)]));
    let mut beer = both.services[&ServiceName::new("wine").unwrap()].clone();
    let mut carried = affinity(rule(KeySource::Header, Some("modelyard-session")), &[(2, 0)]);
    carried.salt = "beer-3".to_owned();
    beer.affinity = Some(carried);
    both.services.insert(ServiceName::new("beer").unwrap(), beer);
    gateway.put(&both);
    let mut caller = Caller::connect(gateway.address);
    let mut sides = [0; 2];
    for user in 0..60 {
        let side = ask(&mut caller, &format!("x-user: user-{user}\r\n"));
        sides[side as usize - 1] += 1;
        let seen = if side == 1 { one.last() } else { two.last() };
        // What the instance of `wine` was told it passes on, as a header or in its baggage.
        for field in ["modelyard-session", "baggage"] {
            let fields = format!("{field}: {}\r\n", seen.header(field)[0]);
            let reply = caller.send("POST", "/v2/models/beer/infer", &fields, b"{}").unwrap();
            assert_eq!(reply.header("modelyard-revision"), side.to_string(), "{fields}");
        }
    }
    assert!(sides.iter().all(|&count| count > 10), "{sides:?}");
    gateway.end();
}

#[test]
fn addresses_and_cookies_of_applications_are_keys_too() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let pools = [(1, 5_000, &[one.address][..]), (2, 5_000, &[two.address][..])];
    gateway.put(&table_with(1, &pools, sticky(rule(KeySource::Address, None), &[(2, 0)])));
    let arm = |key: &[u8]| if point(hash(SALT, key)) < 5_000 { 2 } else { 1 };
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..20 {
        assert_eq!(ask(&mut caller, ""), arm(&[127, 0, 0, 1]));
    }
    for last in 1..60u8 {
        // The end is what a proxy on this machine saw; what stands before may be made up.
        let fields = format!("x-forwarded-for: 10.0.0.{last}, 203.0.113.{last}\r\n");
        assert_eq!(ask(&mut caller, &fields), arm(&[203, 0, 113, last]));
    }
    gateway.put(&table_with(2, &pools, sticky(rule(KeySource::Cookie, Some("sid")), &[(2, 0)])));
    for number in 0..60 {
        let value = format!("s{number}");
        assert_eq!(ask(&mut caller, &format!("cookie: a=1; sid={value}\r\n")), arm(value.as_bytes()));
    }
    gateway.end();
}

#[test]
fn without_a_key_each_request_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let pools = [(1, 7_000, &[one.address][..]), (2, 3_000, &[two.address][..])];
    gateway.put(&table_with(1, &pools, by_user(&[(2, 0)])));
    let mut caller = Caller::connect(gateway.address);
    for number in 0..1_000 {
        ask(&mut caller, if number % 2 == 0 { "" } else { "x-user: \r\n" });
    }
    // 300 expected; six standard deviations are 87.
    assert!((213..387).contains(&two.count()), "{}", two.count());
    // A rule that makes no sense stops nobody.
    gateway.put(&table_with(2, &pools, sticky(rule(KeySource::Header, None), &[(2, 0)])));
    assert!([1, 2].contains(&ask(&mut caller, "x-user: a\r\n")));
    gateway.end();
}

#[test]
fn a_retry_stays_in_its_arm() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let bad = Instance::start(|stream, _| answer(stream, 503, "busy"));
    let dying = Instance::start(|stream, _| {
        reset(stream);
        false
    });
    let change = |route: &mut ServiceRoute| {
        by_user(&[(2, 0)])(route);
        route.routing.retry_budget_percent = 100;
    };
    let arm = [two.address, bad.address, dying.address];
    gateway.put(&table_with(1, &[(1, 5_000, &[one.address]), (2, 5_000, &arm)], change));
    let mut caller = Caller::connect(gateway.address);
    for (user, arm) in (0..).zip(ask_all(&mut caller, 100)) {
        assert_eq!(arm == 2, point(hash(SALT, format!("user-{user}").as_bytes())) < 5_000, "{user}");
    }
    assert!(bad.count() > 0 && dying.count() > 0, "there was something to retry");
    gateway.end();
}

#[test]
fn when_an_arm_is_dead_stable_answers_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two, three) = (Instance::answering("1"), Instance::answering("2"), Instance::answering("3"));
    let whole = |generation, second: &Instance| {
        let pools =
            [(1, 2_000, &[one.address][..]), (2, 4_000, &[second.address][..]), (3, 4_000, &[three.address][..])];
        table_with(generation, &pools, by_user(&[(2, 0), (3, 4_000)]))
    };
    gateway.put(&whole(1, &two));
    let mut caller = Caller::connect(gateway.address);
    let before = ask_all(&mut caller, 120);
    two.kill();
    let meanwhile = ask_all(&mut caller, 120);
    let expected: Vec<u32> = before.iter().map(|&arm| if arm == 2 { 1 } else { arm }).collect();
    assert_eq!(meanwhile, expected, "the third arm gets nobody else's");
    // The control plane notices, and leaves what the dead arm had to stable.
    let pools = [(1, 6_000, &[one.address][..]), (2, 0, &[]), (3, 4_000, &[three.address][..])];
    gateway.put(&table_with(2, &pools, by_user(&[(2, 0), (3, 4_000)])));
    assert_eq!(ask_all(&mut caller, 120), expected);
    let back = Instance::answering("2");
    gateway.put(&whole(3, &back));
    assert_eq!(ask_all(&mut caller, 120), before);
    gateway.end();
}

#[test]
fn testers_reach_each_arm_and_are_nobody_s_unit() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instances: Vec<Instance> = (0..3).map(|_| Instance::answering("ok")).collect();
    let at = |index: usize| [instances[index].address];
    let (a, b, shadow) = (at(0), at(1), at(2));
    let issued = sticky(rule(KeySource::Issued, None), &[(2, 0)]);
    gateway.put(&table_with(1, &[(1, 5_000, &a), (2, 5_000, &b), (3, 0, &shadow)], issued));
    let mut caller = Caller::connect(gateway.address);
    for arm in 1..=3usize {
        let address = caller.post(&format!("/wine/r{arm}/v2/models/wine/infer"), b"{}");
        let header = caller.send("POST", PATH, &format!("modelyard-revision: {arm}\r\n"), b"{}").unwrap();
        for reply in [address, header] {
            assert_eq!((reply.status, reply.header("modelyard-revision")), (200, arm.to_string().as_str()));
            assert!(!reply.headers.contains_key("set-cookie"), "a tester gets no session");
        }
        let seen = instances[arm - 1].last();
        assert_eq!(seen.header("modelyard-revision"), [arm.to_string().as_str()]);
        assert!(seen.header("modelyard-session").is_empty());
        assert_eq!(instances[arm - 1].count(), 2);
    }
    gateway.end();
}

#[test]
fn arms_may_live_on_machines_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    // Each pool has its own host; the second arm spans two.
    let hosts = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"];
    let instances = hosts.map(|host| Instance::start_at(host, |stream, _| answer(stream, 200, "ok")));
    let arm = [instances[1].address, instances[2].address];
    gateway.put(&table_with(1, &[(1, 5_000, &[instances[0].address]), (2, 5_000, &arm)], by_user(&[(2, 0)])));
    let mut caller = Caller::connect(gateway.address);
    let arms = ask_all(&mut caller, 100);
    let second = arms.iter().filter(|&&arm| arm == 2).count();
    assert_eq!((instances[0].count(), instances[1].count() + instances[2].count()), (100 - second, second));
    assert!(instances.iter().all(|instance| instance.count() > 0));
    assert_eq!(ask_all(&mut caller, 100), arms);
    gateway.end();
}

/// The arm that answers each user, all asked at once: a machine that is cut off is waited for by all together.
fn ask_together(gateway: SocketAddr, count: u32) -> Vec<u32> {
    let ask =
        |user| std::thread::spawn(move || ask(&mut Caller::connect(gateway), &format!("x-user: user-{user}\r\n")));
    let asking: Vec<_> = (0..count).map(ask).collect();
    asking.into_iter().map(|asked| asked.join().unwrap()).collect()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_machine_that_is_cut_off_costs_no_request_and_its_sessions_come_back() {
    let (stables, arms) = (Machine::start(0).unwrap(), Machine::start(1).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let ok = |stream: &mut TcpStream, _: &Seen| answer(stream, 200, "ok");
    let (one, two) = (Instance::start_on(stables.listen(), ok), Instance::start_on(arms.listen(), ok));
    assert!(stables.has(one.address) && arms.has(two.address) && one.address.ip() != two.address.ip());
    let split = table_with(1, &[(1, 5_000, &[one.address]), (2, 5_000, &[two.address])], |route| {
        by_user(&[(2, 0)])(route);
        route.routing.retry_budget_percent = 100;
    });
    gateway.put(&split);
    let own = |user: u32| if point(hash(SALT, format!("user-{user}").as_bytes())) < 5_000 { 2 } else { 1 };
    let expected: Vec<u32> = (0..40).map(own).collect();
    assert_eq!(ask_together(gateway.address, 40), expected, "split and sticky across machines");
    assert_eq!((one.count() + two.count(), two.count()), (40, expected.iter().filter(|&&arm| arm == 2).count()));

    // Connections are kept to the machine that goes silent: what is sent on them is lost, and nobody says so.
    arms.cut();
    assert_eq!(ask_together(gateway.address, 40), vec![1; 40], "stable answers for the arm, and no request fails");
    let report = gateway.report();
    assert_eq!(report.services.values().next().unwrap().failed, 0);

    arms.join().unwrap();
    wait_for("the sessions' return", || (ask_together(gateway.address, 40) == expected).then_some(()));
    gateway.end();
}

#[test]
fn each_api_version_has_its_own_arms() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instances: Vec<Instance> = (0..3).map(|_| Instance::answering("ok")).collect();
    let at = |index: usize| [instances[index].address];
    let (a, b, c) = (at(0), at(1), at(2));
    let table: RouteTable = table_with(1, &[(1, 5_000, &a), (2, 5_000, &b), (3, 0, &c)], |route| {
        by_user(&[(2, 0)])(route);
        route.apis.insert(2, [(RevisionNumber(3), Weight::ALL)].into());
    });
    gateway.put(&table);
    let mut caller = Caller::connect(gateway.address);
    for user in 0..40 {
        let fields = format!("x-user: user-{user}\r\n");
        let arm = if point(hash(SALT, format!("user-{user}").as_bytes())) < 5_000 { "2" } else { "1" };
        let first = caller.send("POST", "/wine/v1/predict", &fields, b"{}").unwrap();
        let second = caller.send("POST", "/wine/v2/predict", &fields, b"{}").unwrap();
        assert_eq!((first.header("modelyard-revision"), second.header("modelyard-revision")), (arm, "3"));
    }
    gateway.end();
}
