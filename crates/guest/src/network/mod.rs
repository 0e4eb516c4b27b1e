//! The network: every interface is switched on, those of Ethernet get their addresses by DHCP; IPv6 is the kernel's, by router advertisements.
//!
//! Promises: nobody waits for it; interfaces may come and go; what could not be configured is told once and tried again with the next lease.
//! Absent on purpose: fixed addresses (a server knows the machine by its hardware address), wireless, VLANs.

pub mod dhcp;
mod link;
mod netlink;
mod resolver;
mod socket;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use dhcp::{Action, Client, Lease};
use link::{Kind, Link};
use netlink::Netlink;
use rustix::io::Errno;
use socket::Port;

use crate::console::say;

/// An interface that is configured by DHCP.
#[derive(Debug)]
struct Interface {
    name: String,
    client: Client,
    port: Port,
    /// Whether frames can pass; not known before it was switched on.
    carrier: Option<bool>,
    /// What is configured.
    lease: Option<Lease>,
    /// Whether it takes packets for any address.
    open: bool,
}

/// All interfaces of the machine.
#[derive(Debug)]
pub struct Network {
    requests: Netlink,
    events: Netlink,
    interfaces: BTreeMap<u32, Interface>,
    hostname: String,
    /// Whether programs of the root look into a file of ours for name servers.
    resolver: bool,
}

impl Network {
    /// Begins: what is there is configured as soon as it is told of.
    pub fn start(hostname: &str, resolver: bool) -> io::Result<Self> {
        let mut events = Netlink::for_events(link::EVENTS)?;
        events.send(&link::tell_all())?;
        let requests = Netlink::for_requests()?;
        Ok(Self { requests, events, interfaces: BTreeMap::new(), hostname: hostname.to_owned(), resolver })
    }

    /// What can be waited for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ports = self.interfaces.values().map(|interface| interface.port.as_fd());
        [self.events.as_fd()].into_iter().chain(ports)
    }

    /// When it wants to be called though nothing arrived.
    pub fn wake(&self) -> Option<Duration> {
        self.interfaces.values().filter_map(|interface| interface.client.wake()).min()
    }

    /// Does whatever is due.
    pub fn go_on(&mut self, now: Duration) {
        self.follow(now);
        let indexes: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indexes {
            let Some(interface) = self.interfaces.get_mut(&index) else { continue };
            let mut actions = Vec::new();
            for packet in interface.port.receive() {
                actions.extend(interface.client.receive(now, &packet));
            }
            actions.extend(interface.client.tick(now));
            self.act(index, actions);
        }
    }

    /// Reads what the kernel tells of interfaces.
    fn follow(&mut self, now: Duration) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.events.receive(&mut buffer) {
                Ok(count) => {
                    let links: Vec<Link> =
                        netlink::messages(&buffer[..count]).filter_map(|message| Link::parse(&message)).collect();
                    for link in links {
                        self.see(now, link);
                    }
                }
                Err(Errno::INTR) => {}
                // Some were lost: all are told again.
                Err(Errno::NOBUFS) if self.events.send(&link::tell_all()).is_ok() => {}
                Err(_) => return,
            }
        }
    }

    fn see(&mut self, now: Duration, link: Link) {
        if link.gone {
            if self.interfaces.remove(&link.index).is_some() {
                say(format_args!("the network interface {} is gone", link.name));
                self.write_resolvers();
            }
            return;
        }
        match link.kind {
            Kind::Ethernet(hardware) if !self.interfaces.contains_key(&link.index) => self.begin(&link, hardware),
            Kind::Loopback if !link.carrier => self.switch_on(&link),
            _ => {}
        }
        let Some(interface) = self.interfaces.get_mut(&link.index) else { return };
        if !link.on || interface.carrier == Some(link.carrier) {
            return;
        }
        let before = interface.carrier.replace(link.carrier);
        if !link.carrier {
            say(format_args!("{} has no link", link.name));
            interface.client.link_down();
            return;
        }
        if before.is_some() {
            say(format_args!("{} has a link", link.name));
        }
        let actions = interface.client.link_up(now);
        self.act(link.index, actions);
    }

    fn begin(&mut self, link: &Link, hardware: [u8; 6]) {
        let port = match Port::open(&link.name) {
            Ok(port) => port,
            Err(error) => return say(format_args!("{} cannot be used: {error}", link.name)),
        };
        let client = Client::new(hardware, &self.hostname, seed());
        let interface = Interface { name: link.name.clone(), client, port, carrier: None, lease: None, open: false };
        self.interfaces.insert(link.index, interface);
        self.open_or_close(link.index);
        self.switch_on(link);
    }

    fn switch_on(&mut self, link: &Link) {
        if let Err(error) = self.requests.ask(&link::switch_on(link.index)) {
            say(format_args!("{} could not be switched on: {error}", link.name));
        }
    }

    fn act(&mut self, index: u32, actions: Vec<Action>) {
        for action in actions {
            let Some(interface) = self.interfaces.get_mut(&index) else { return };
            let name = &interface.name;
            match action {
                // Not sent (no route yet, no memory): as if it was lost on the way.
                Action::Send(to, bytes) => drop(interface.port.send(to, &bytes)),
                Action::Take(lease) => self.take(index, *lease),
                Action::Lose(why) => {
                    say(format_args!("{name} gives up its address: {why}"));
                    self.lose(index);
                }
                Action::Unanswered(count) => {
                    say(format_args!(
                        "{name} has no address: {count} questions to DHCP servers have led to none; it goes on asking"
                    ));
                }
                Action::Refused(server) => {
                    let server = server.map(|server| format!(" {server}")).unwrap_or_default();
                    say(format_args!("{name}: the DHCP server{server} refused the address; asking anew"));
                }
            }
            self.open_or_close(index);
        }
    }

    /// Without an address, packets for any are taken.
    fn open_or_close(&mut self, index: u32) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        let wanted = interface.client.is_without();
        if wanted == interface.open {
            return;
        }
        interface.open = wanted;
        let requests = if wanted {
            link::open_for_any(&interface.name).to_vec()
        } else {
            vec![link::close_for_any(&interface.name)]
        };
        for request in requests {
            // A kernel without several tables: then servers have to answer to everybody, as they are asked to.
            let _ = self.requests.ask(&request);
        }
    }

    fn take(&mut self, index: u32, lease: Lease) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        let before = interface.lease.replace(lease.clone());
        if before.as_ref().is_some_and(|before| is_same(before, &lease)) {
            return;
        }
        let name = interface.name.clone();
        let ways = |lease: &Lease| (lease.address, lease.prefix, lease.routes.clone());
        if let Some(before) = before.filter(|before| ways(before) != ways(&lease)) {
            // With the address go the routes that leave from it: none of the old ones stays.
            let _ = self.requests.ask(&link::remove_address(index, before.address, before.prefix));
        }
        say(format_args!("{name} has the address {}", describe(&lease)));
        self.configure(index, &name, &lease);
        if let Some(hostname) = &lease.hostname {
            let _ = rustix::system::sethostname(hostname.as_bytes()); // as long as the kernel takes
        }
        self.write_resolvers();
    }

    fn configure(&mut self, index: u32, name: &str, lease: &Lease) {
        let mut ask = |what: &str, request: &netlink::Request| {
            if let Err(error) = self.requests.ask(request) {
                say(format_args!("{name}: {what} could not be set: {error}"));
            }
        };
        if let Some(mtu) = lease.mtu {
            ask("the longest packet", &link::set_mtu(index, mtu));
        }
        ask("the address", &link::add_address(index, lease.address, lease.prefix));
        // Those on the link first: others lead over them.
        let (near, far): (Vec<_>, Vec<_>) = lease.routes.iter().partition(|route| route.via.is_none());
        for route in near.into_iter().chain(far) {
            ask(
                &format!("the route to {}/{}", route.to, route.prefix),
                &link::add_route(index, route, lease.address, lease.prefix),
            );
        }
    }

    fn lose(&mut self, index: u32) {
        let lease = self.interfaces.get_mut(&index).and_then(|interface| interface.lease.take());
        if let Some(lease) = lease {
            let _ = self.requests.ask(&link::remove_address(index, lease.address, lease.prefix));
        }
        self.write_resolvers();
    }

    fn write_resolvers(&self) {
        let leases: Vec<&Lease> = self.interfaces.values().filter_map(|interface| interface.lease.as_ref()).collect();
        if self.resolver {
            resolver::write(&leases);
        }
    }
}

/// Whether there is nothing to configure.
fn is_same(one: &Lease, other: &Lease) -> bool {
    let configured = |lease: &Lease| {
        let Lease { address, prefix, routes, resolvers, domain, hostname, mtu, .. } = lease.clone();
        (address, prefix, routes, resolvers, domain, hostname, mtu)
    };
    configured(one) == configured(other)
}

fn describe(lease: &Lease) -> String {
    let mut text = format!("{}/{}", lease.address, lease.prefix);
    if let Some(router) = lease.routes.iter().find(|route| route.prefix == 0).and_then(|route| route.via) {
        let _ = write!(text, " over {router}");
    }
    let _ = write!(text, ", from {}", lease.server);
    if let Some(span) = lease.span {
        let _ = write!(text, " for {} s", span.as_secs());
    }
    text
}

/// Something that other machines have differently. Early in a machine's life there may be little of it: then the clock has to do.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes) ^ u64::from(crate::clock::now().subsec_nanos())
}

#[cfg(test)]
mod tests;
