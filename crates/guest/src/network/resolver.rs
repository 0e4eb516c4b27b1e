//! The file in which programs look for name servers.

use std::fmt::Write as _;
use std::fs;

use super::dhcp::Lease;
use crate::mounts::RESOLVER;

/// The C library reads no more.
const MAX: usize = 3;

/// Writes what these leases say; without any, an empty file.
pub fn write(leases: &[&Lease]) {
    let _ = fs::write(RESOLVER, text(leases)); // memory is full: then the old one stays
}

fn text(leases: &[&Lease]) -> String {
    let mut text = String::new();
    if let Some(domain) = leases.iter().find_map(|lease| lease.domain.as_ref()) {
        let _ = writeln!(text, "search {domain}");
    }
    for server in leases.iter().flat_map(|lease| &lease.resolvers).take(MAX) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::super::dhcp::Lease;
    use super::text;

    #[test]
    fn name_servers_of_all_interfaces_are_named() {
        let lease = Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            server: Ipv4Addr::new(10, 0, 2, 2),
            routes: Vec::new(),
            resolvers: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(10, 0, 2, 4)],
            domain: Some("example.org".into()),
            hostname: None,
            mtu: None,
            span: None,
            renew: Duration::MAX,
            rebind: Duration::MAX,
        };
        let written = text(&[&lease, &lease]);
        assert_eq!(
            written.lines().collect::<Vec<_>>(),
            ["search example.org", "nameserver 10.0.2.3", "nameserver 10.0.2.4", "nameserver 10.0.2.3"]
        );
        assert_eq!(text(&[]), "");
    }
}
