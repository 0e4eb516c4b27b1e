//! Ports for programs that are told theirs by `$PORT`.
//!
//! Promises: a port is announced only once a process of the instance itself listens on it, never because a stranger does.
//! Source: `proc_net_tcp(5)`; state `0A` is LISTEN; addresses are hexadecimal in the machine's byte order.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// On loopback a connection is made or refused at once, unless the program's backlog is full.
const CONNECT: Duration = Duration::from_millis(100);

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// Nobody yet.
    Nobody,
    /// A process of the instance, reachable here.
    Ours(SocketAddr),
    /// Another program: the port is lost.
    Stranger,
}

/// Picks a loopback port that is free now. `draw` chooses; any number will do.
///
/// It lies below the range from which the kernel takes ports for outgoing connections, so that none of those can take it
/// between here and the program's own bind.
pub(crate) fn pick(draw: u64) -> std::io::Result<u16> {
    let low = ephemeral_low();
    let (first, count) = if low > 12_000 { (10_000, low - 10_000) } else { (49_152, 16_000) };
    for attempt in 0..u64::from(count) {
        let port = first + u16::try_from((draw.wrapping_add(attempt * 7)) % u64::from(count)).unwrap_or(0);
        if is_free(port) {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn ephemeral_low() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_ascii_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768)
}

/// On every address: a program may listen on `0.0.0.0`.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// Who listens on `port`. `family` finds the processes of the instance; it is asked only if someone listens.
///
/// The machine's table of sockets is long under load, so it is read only once a connection shows that someone is there.
pub(crate) fn listener(port: u16, family: impl FnOnce() -> Vec<u32>) -> Listener {
    let loopbacks: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let answers = |ip: &IpAddr| TcpStream::connect_timeout(&(*ip, port).into(), CONNECT).is_ok();
    if !loopbacks.iter().any(answers) {
        return Listener::Nobody;
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let table = sockets(&read("/proc/net/tcp"), port).into_iter().chain(sockets(&read("/proc/net/tcp6"), port));
    let reachable: Vec<(SocketAddr, u64)> =
        table.filter_map(|(ip, inode)| Some((loopback(ip, port)?, inode))).collect();
    if reachable.is_empty() {
        return Listener::Nobody;
    }
    let owned: HashSet<u64> = family().into_iter().flat_map(inodes).collect();
    // Version 4 first: that is where the program was told to listen.
    let ours = reachable.iter().find(|(_, inode)| owned.contains(inode));
    ours.map_or(Listener::Stranger, |&(address, _)| Listener::Ours(address))
}

/// The loopback address at which a listener on `ip` takes connections, if at any.
fn loopback(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() || v4.is_loopback() => {
            Some((if v4.is_loopback() { v4 } else { Ipv4Addr::LOCALHOST }, port).into())
        }
        // Unspecified in version 6 takes version 4 too, unless the program asked for version 6 only.
        IpAddr::V6(v6) if v6.is_unspecified() && ipv6_only_by_default() => Some((Ipv6Addr::LOCALHOST, port).into()),
        IpAddr::V6(v6) if v6.is_unspecified() => Some((Ipv4Addr::LOCALHOST, port).into()),
        IpAddr::V6(v6) if v6.is_loopback() => Some((Ipv6Addr::LOCALHOST, port).into()),
        _ => None,
    }
}

fn ipv6_only_by_default() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|value| value.trim() == "1")
}

/// Address and inode of each socket that listens on `port`.
fn sockets(table: &str, port: u16) -> Vec<(IpAddr, u64)> {
    table.lines().skip(1).filter_map(|line| socket(line, port)).collect()
}

fn socket(line: &str, port: u16) -> Option<(IpAddr, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (ip, hex_port) = fields.get(1)?.split_once(':')?;
    let listens = *fields.get(3)? == "0A" && u16::from_str_radix(hex_port, 16).ok()? == port;
    listens.then(|| Some((address(ip)?, fields.get(9)?.parse().ok()?))).flatten()
}

fn address(hex: &str) -> Option<IpAddr> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => word(hex).map(|bytes| Ipv4Addr::from(bytes).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_mut(4).enumerate() {
                four.copy_from_slice(&word(hex.get(index * 8..index * 8 + 8)?)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Inodes of the sockets that a process holds.
fn inodes(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter_map(|target| inode(target.as_os_str().as_bytes())).collect()
}

fn inode(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_apart() {
        let listener_ = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener_.local_addr().unwrap();
        assert_eq!(listener(address.port(), || vec![std::process::id()]), Listener::Ours(address));
        assert_eq!(listener(address.port(), Vec::new), Listener::Stranger);
        drop(listener_);
        // A process that another test starts just now holds a copy until it runs its own program.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while listener(address.port(), || vec![std::process::id()]) != Listener::Nobody {
            assert!(std::time::Instant::now() < deadline, "somebody listens still");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_on_all_addresses_is_reached_by_loopback() {
        for all in ["0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(all) else { continue }; // a machine without version 6
            let port = socket.local_addr().unwrap().port();
            let Listener::Ours(address) = listener(port, || vec![std::process::id()]) else { panic!("{all}") };
            assert!(address.ip().is_loopback());
            std::net::TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn picked_ports_are_free_and_lie_outside_the_outgoing_range() {
        let low = ephemeral_low();
        for draw in [0, 1, u64::MAX, 123_456_789] {
            let port = pick(draw).unwrap();
            assert!(low <= 12_000 || port < low, "{port}");
            TcpListener::bind(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn damaged_tables_hold_nobody() {
        for table in ["", "head\n", "head\n0: zz:1F90 x 0A", "head\n0: 0100007F:1F90 00000000:0000 0A"] {
            assert!(sockets(table, 8080).is_empty(), "{table}");
        }
        let line = "head\n 0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 4242 1 0 100 0 0 10 0";
        assert_eq!(sockets(line, 8080), [(Ipv4Addr::LOCALHOST.into(), 4242)]);
    }
}
