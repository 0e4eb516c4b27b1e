//! Sessions: callers who bring the cookie that a gateway gave them, as all gateways here keep sessions with their revision.
//!
//! Promises: every gateway is asked in the same way: of 64 requests, 63 bring the cookie of one of 63 sessions, one has none yet.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::http1::Request;
use crate::process::read_answer;

/// Sessions that go on; one more request in a round is a first contact.
const SESSIONS: usize = 63;

/// The requests of all sessions, each with the cookie that the gateway gives it now, and one without.
///
/// # Errors
/// When the gateway gives no cookie: then it keeps no sessions, and the comparison is none.
pub fn requests(address: SocketAddr, request: &Request) -> Result<Vec<Request>> {
    let with_cookie = |_| {
        let cookie = first_contact(address, request)?;
        let mut request = request.clone();
        request.headers.push(("Cookie".to_owned(), cookie));
        Ok(request)
    };
    let mut requests = (0..SESSIONS).map(with_cookie).collect::<Result<Vec<_>>>()?;
    requests.push(request.clone());
    Ok(requests)
}

/// Asks without a cookie; the one that is given.
fn first_contact(address: SocketAddr, request: &Request) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&request.encode(&address.to_string(), true))?;
    let (answer, buffer) = read_answer(&mut stream)?;
    let head = String::from_utf8_lossy(&buffer[..answer.body_at]);
    cookie(&head).with_context(|| format!("the answer to a first contact sets no cookie:\n{head}"))
}

/// `name=value` of the cookie that a head sets.
fn cookie(head: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))?;
    value.split(';').next().map(|pair| pair.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_what_comes_before_its_attributes() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nSet-Cookie: a=b.c; Path=/; HttpOnly\r\n\r\n";
        assert_eq!(cookie(head).as_deref(), Some("a=b.c"));
        assert_eq!(cookie("HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
