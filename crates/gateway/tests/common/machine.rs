//! Another machine: a network namespace of its own, joined to this one by a link that can be cut.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A machine of its own; it is gone when this is dropped.
pub struct Machine {
    name: String,
    link: String,
    host: String,
}

impl Machine {
    /// A machine; why there can be none, where there can be none. `number` tells those of one test apart, below 60.
    pub fn start(number: u32) -> Result<Self, String> {
        let pid = std::process::id();
        // A network of four addresses for each, told apart by process, so that tests may run side by side.
        let net = |host: u32| format!("10.{}.{}.{}", 200 + pid % 50, pid / 50 % 250, number * 4 + host);
        let (name, link) = (format!("modelyard-{pid}-{number}"), format!("my{pid}-{number}"));
        run(&["netns", "add", &name])?;
        let machine = Self { name, link, host: net(2) };
        let (name, link) = (machine.name.as_str(), machine.link.as_str());
        run(&["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        run(&["addr", "add", &format!("{}/30", net(1)), "dev", link])?;
        run(&["link", "set", link, "up"])?;
        run(&["-n", name, "addr", "add", &format!("{}/30", machine.host), "dev", "eth0"])?;
        machine.join()?;
        Ok(machine)
    }

    /// A socket that listens there. Sockets stay where they were made, whoever uses them.
    pub fn listen(&self) -> TcpListener {
        let (path, address) = (format!("/run/netns/{}", self.name), format!("{}:0", self.host));
        let there = move || {
            let space = std::fs::File::open(path).unwrap();
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind(address).unwrap()
        };
        std::thread::spawn(there).join().unwrap()
    }

    /// Cuts the machine off: nothing reaches it, and nothing says so.
    pub fn cut(&self) {
        run(&["-n", &self.name, "link", "set", "eth0", "down"]).unwrap();
    }

    /// Joins it again.
    pub fn join(&self) -> Result<(), String> {
        run(&["-n", &self.name, "link", "set", "eth0", "up"])
    }

    /// Whether an address is one of this machine's.
    pub fn has(&self, address: SocketAddr) -> bool {
        address.ip().to_string() == self.host
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The link first: the name space itself lives as long as a socket in it.
        let _ = run(&["link", "del", &self.link]);
        let _ = run(&["netns", "del", &self.name]);
    }
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let why = || format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(why()) }
}
