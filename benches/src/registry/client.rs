//! A client of registries that costs little itself: one connection, blocking, nothing copied twice.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// One connection.
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    head: Vec<(String, String)>,
}

impl Client {
    /// Connects.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { address, stream: BufReader::with_capacity(256 << 10, stream), head: Vec::new() })
    }

    /// Sends a request's head.
    fn begin(&mut self, method: &str, path: &str, kind: &str, length: usize) -> Result<()> {
        let typed = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        let address = self.address;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{typed}content-length: {length}\r\n\r\n");
        Ok(self.stream.get_mut().write_all(head.as_bytes())?)
    }

    /// Reads an answer; its status and the length of its body, which goes `into` a buffer or nowhere.
    fn answer(&mut self, into: Option<&mut Vec<u8>>) -> Result<(u16, u64)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer came")?;
        self.head.clear();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            self.head.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut nowhere = Vec::new();
        let keeps = into.is_some();
        let into = into.unwrap_or(&mut nowhere);
        match self.header("content-length").map(str::parse::<u64>) {
            Some(length) => Ok((status, self.take(length?, into, keeps)?)),
            None if self.header("transfer-encoding").is_some() => self.chunks(into, keeps).map(|all| (status, all)),
            None => Ok((status, 0)),
        }
    }

    fn take(&mut self, length: u64, into: &mut Vec<u8>, keeps: bool) -> Result<u64> {
        let mut left = length;
        while left > 0 {
            let piece = self.stream.fill_buf()?;
            ensure!(!piece.is_empty(), "the answer broke off");
            let read = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if keeps {
                into.extend_from_slice(&piece[..read]);
            }
            self.stream.consume(read);
            left -= read as u64;
        }
        Ok(length)
    }

    fn chunks(&mut self, into: &mut Vec<u8>, keeps: bool) -> Result<u64> {
        let mut all = 0;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim_end(), 16)?;
            all += self.take(length, into, keeps)?;
            let mut end = [0; 2];
            self.stream.read_exact(&mut end)?;
            if length == 0 {
                return Ok(all);
            }
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Address of the next page, if the last answer named one.
    pub fn link(&self) -> Option<String> {
        let link = self.header("link")?.split_once('<')?.1.split_once('>')?.0;
        Some(link.split_once("/v2/").map_or_else(|| link.to_owned(), |(_, rest)| format!("/v2/{rest}")))
    }

    /// Gets a body; its length.
    pub fn get(&mut self, path: &str, into: Option<&mut Vec<u8>>) -> Result<u64> {
        self.begin("GET", path, "", 0)?;
        match self.answer(into)? {
            (200, length) => Ok(length),
            (status, _) => bail!("{path} was answered with {status}"),
        }
    }

    /// Pushes a blob in two steps, as every registry takes it.
    pub fn push<'a, I: Iterator<Item = &'a [u8]>>(
        &mut self,
        name: &str,
        digest: &str,
        length: usize,
        pieces: impl Fn() -> I,
    ) -> Result<()> {
        self.begin("POST", &format!("/v2/{name}/blobs/uploads/"), "", 0)?;
        let (begun, _) = self.answer(None)?;
        ensure!(begun == 202, "an upload was answered with {begun}");
        let place = self.header("location").context("an upload has no place")?;
        let place = place.split_once("/v2/").map_or("", |(_, rest)| rest);
        let joint = if place.contains('?') { '&' } else { '?' };
        let path = format!("/v2/{place}{joint}digest={digest}");
        self.begin("PUT", &path, "application/octet-stream", length)?;
        for piece in pieces() {
            self.stream.get_mut().write_all(piece)?;
        }
        let (done, _) = self.answer(None)?;
        ensure!(done == 201, "a blob was answered with {done}");
        Ok(())
    }

    /// Puts a manifest.
    pub fn put_manifest(&mut self, path: &str, kind: &str, bytes: &[u8]) -> Result<()> {
        self.begin("PUT", path, kind, bytes.len())?;
        self.stream.get_mut().write_all(bytes)?;
        let (done, _) = self.answer(None)?;
        ensure!(done == 201, "a manifest was answered with {done}");
        Ok(())
    }
}
