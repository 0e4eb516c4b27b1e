//! The network against the kernel: a name space is the machine, another one the server.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use super::Network;
use crate::clock;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 9);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 1);
const OTHER_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 213, 7, 2);
const HOUR: Duration = Duration::from_secs(3_600);

/// A machine and a server with a link between them; both are gone when this is dropped.
struct World {
    machine: String,
    server: String,
}

impl World {
    fn start() -> Self {
        let name = |part: &str| format!("modelyard-{part}-{}", std::process::id());
        let world = Self { machine: name("guest"), server: name("dhcp") };
        ip(&["netns", "add", &world.machine]);
        ip(&["netns", "add", &world.server]);
        let there = ["netns", &world.machine, "type", "veth", "peer", "name", "eth0", "netns", &world.server];
        ip(&[&["link", "add", "eth0"], &there[..]].concat());
        ip(&["-n", &world.server, "addr", "add", &format!("{SERVER}/24"), "dev", "eth0"]);
        ip(&["-n", &world.server, "link", "set", "eth0", "up"]);
        world
    }

    fn socket(&self) -> UdpSocket {
        inside(&self.server, || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67)).into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket.into()
        })
    }

    /// What the machine's kernel tells of its addresses and routes.
    fn told(&self) -> String {
        let on = ["-n", self.machine.as_str(), "-4", "-o"];
        ip(&[&on[..], &["addr"]].concat()) + &ip(&[&on[..], &["route"]].concat()) + &ip(&[&on[..], &["rule"]].concat())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.machine, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn inside<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        let space = File::open(format!("/run/netns/{space}")).unwrap();
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// Lets the machine go on until the server hears a question. The question, and from where.
fn question(network: &mut Network, server: &UdpSocket, now: Duration) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2_048];
    let deadline = clock::now() + Duration::from_secs(10);
    while clock::now() < deadline {
        network.go_on(now);
        if let Ok((count, from)) = server.recv_from(&mut buffer) {
            return (buffer[..count].to_vec(), from);
        }
    }
    panic!("no question came");
}

/// Lets the machine go on until its kernel tells what is `wanted`.
fn settle(world: &World, network: &mut Network, now: Duration, wanted: impl Fn(&str) -> bool) {
    let deadline = clock::now() + Duration::from_secs(10);
    loop {
        network.go_on(now);
        let told = world.told();
        if wanted(&told) {
            return;
        }
        assert!(clock::now() < deadline, "still: {told}");
    }
}

fn answer(question: &[u8], kind: u8, router: Ipv4Addr) -> Vec<u8> {
    let mut bytes = question[..240].to_vec();
    bytes[0] = 2;
    bytes[16..20].copy_from_slice(&ADDRESS.octets());
    bytes.extend([53, 1, kind, 54, 4]);
    bytes.extend(SERVER.octets());
    bytes.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 0, 3, 4]);
    bytes.extend(router.octets());
    bytes.extend([26, 2, 5, 120, 255]); // 1400
    bytes
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_address_is_asked_for_set_renewed_and_taken_away() {
    let world = World::start();
    let server = world.socket();
    inside(&world.machine, || {
        let now = clock::now();
        let mut network = Network::start("wine", false).unwrap();
        let (asked, from) = question(&mut network, &server, now);
        assert_eq!((asked[242], from), (1, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68))));
        assert!(world.told().contains("iif eth0 lookup 68"), "it takes packets for any address");

        // To the address that the machine does not have yet, as servers do that do not heed what they are asked.
        let hardware: Vec<String> = asked[28..34].iter().map(|byte| format!("{byte:02x}")).collect();
        let address = ADDRESS.to_string();
        ip(&["-n", &world.server, "neigh", "replace", &address, "lladdr", &hardware.join(":"), "dev", "eth0"]);
        server.send_to(&answer(&asked, 2, SERVER), (ADDRESS, 68)).unwrap();
        let (asked, _) = question(&mut network, &server, now);
        assert_eq!(asked[242], 3);
        server.send_to(&answer(&asked, 5, SERVER), (Ipv4Addr::BROADCAST, 68)).unwrap();
        settle(&world, &mut network, now, |told| {
            told.contains("10.213.7.9/24 brd 10.213.7.255")
                && told.contains("default via 10.213.7.1 dev eth0 proto dhcp src 10.213.7.9")
                && told.contains("127.0.0.1")
                && !told.contains("iif eth0")
        });
        assert!(ip(&["-n", &world.machine, "link", "show", "eth0"]).contains("mtu 1400"));

        // Half of its time is over: its server is asked, from the address. The way to everywhere is another one now.
        let (asked, from) = question(&mut network, &server, now + HOUR / 2);
        assert_eq!((asked[242], from), (3, SocketAddr::from((ADDRESS, 68))));
        server.send_to(&answer(&asked, 5, OTHER_ROUTER), from).unwrap();
        settle(&world, &mut network, now + HOUR / 2, |told| {
            told.contains("10.213.7.9/24")
                && told.contains("default via 10.213.7.2")
                && !told.contains("via 10.213.7.1")
        });
        assert_eq!(network.wake(), Some(now + HOUR / 2 + HOUR / 2));

        // Nobody answers any more, and its time is over.
        settle(&world, &mut network, now + HOUR * 2, |told| {
            !told.contains("10.213.7.9") && !told.contains("default via") && told.contains("iif eth0")
        });
    });
}
