//! Instances that behave as told, on plain threads and sockets: they may die, stall, stream, or talk nonsense.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::PATIENCE;

/// A request as the instance saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// What the instance does with a request; false closes the connection.
pub type Behaviour = Arc<dyn Fn(&mut TcpStream, &Seen) -> bool + Send + Sync>;

pub struct Instance {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub requests: Arc<AtomicUsize>,
    behaviour: Arc<Mutex<Behaviour>>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    dead: Arc<AtomicBool>,
}

impl Instance {
    pub fn start(behaviour: impl Fn(&mut TcpStream, &Seen) -> bool + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", behaviour)
    }

    /// Starts one at an address of its own, as if on another machine.
    pub fn start_at(address: &str, behaviour: impl Fn(&mut TcpStream, &Seen) -> bool + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind(address).unwrap(), behaviour)
    }

    /// Starts one that takes the connections of this socket.
    pub fn start_on(
        listener: TcpListener,
        behaviour: impl Fn(&mut TcpStream, &Seen) -> bool + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let instance = Self {
            address,
            seen: Arc::default(),
            requests: Arc::default(),
            behaviour: Arc::new(Mutex::new(Arc::new(behaviour))),
            streams: Arc::default(),
            dead: Arc::default(),
        };
        let (seen, requests, behaviour) =
            (instance.seen.clone(), instance.requests.clone(), instance.behaviour.clone());
        let (streams, dead) = (instance.streams.clone(), instance.dead.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if dead.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (seen, requests, behaviour) = (seen.clone(), requests.clone(), behaviour.clone());
                std::thread::spawn(move || serve(stream, &seen, &requests, &behaviour));
            }
        });
        instance
    }

    /// Answers every request with 200 and `body`.
    pub fn answering(body: &'static str) -> Self {
        Self::start(move |stream, _| answer(stream, 200, body))
    }

    pub fn behave(&self, behaviour: impl Fn(&mut TcpStream, &Seen) -> bool + Send + Sync + 'static) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    pub fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    /// Dies as a killed process does: nobody listens any more, and every connection is reset.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread, which then drops its listener
        super::wait_for("the listener's end", || TcpStream::connect(self.address).is_err().then_some(()));
        for stream in self.streams.lock().unwrap().drain(..) {
            reset(&stream);
        }
    }

    /// Closes all open connections, as servers do with idle ones.
    pub fn close_connections(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.dead.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Ends a connection with RST.
pub fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>, requests: &AtomicUsize, behaviour: &Mutex<Behaviour>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read(&mut reader) {
        requests.fetch_add(1, Ordering::SeqCst);
        seen.lock().unwrap().push(request.clone());
        let behave = behaviour.lock().unwrap().clone();
        if !behave(&mut stream, &request) {
            let _ = stream.shutdown(Shutdown::Both); // a copy is kept for `kill`
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut request = Seen::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        request.head.push_str(&line);
    }
    if !request.header("transfer-encoding").is_empty() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            if length == 0 {
                break;
            }
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).ok()?;
            request.body.extend_from_slice(&chunk[..length]);
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if line == "\r\n" {
                return Some(request);
            }
            request.head.push_str(&line);
        }
    }
    let length = request.header("content-length").first().map_or(0, |length| length.parse().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// Answers with a status and a body, and keeps the connection.
pub fn answer(stream: &mut TcpStream, status: u16, body: &str) -> bool {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_ok()
}
