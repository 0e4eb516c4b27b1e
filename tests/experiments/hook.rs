//! A local web hook that keeps what it is told.

use serde_json::Value;

/// A web hook: refuses the first notice for a moment, then takes all.
pub struct Hook {
    /// Its address.
    pub url: String,
    told: std::sync::Arc<std::sync::Mutex<Vec<Value>>>,
}

impl Hook {
    pub fn start() -> Self {
        use std::io::{BufRead as _, Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let told = std::sync::Arc::<std::sync::Mutex<Vec<Value>>>::default();
        let kept = std::sync::Arc::clone(&told);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = std::io::BufReader::new(stream.unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while stream.read_line(&mut line).unwrap() > 2 {
                    if let Some(given) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = given.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let status = if number == 0 { "503 Service Unavailable" } else { "200 OK" };
                if number > 0 {
                    kept.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { url, told }
    }

    pub fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }
}
