//! A server's life: listen, load, serve, drain.
//!
//! Threads: each I/O thread has a runtime of its own and shares nothing on the way of a request; the first one also accepts
//! and hands connections to whichever thread has the fewest. One thread loads the model and then asks the samples. The probe
//! port has a thread of its own, so that probes are answered whatever the others do.

mod accept;
mod connection;
mod loader;
mod probe;
mod shared;

pub(crate) use connection::Thread;
pub(crate) use shared::{Loaded, Shared};

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use modelyard_core::home::Announcement;
use modelyard_core::package::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::options::ServeOptions;
use crate::{Error, announce};

/// Serves a package until SIGTERM or SIGINT, then drains. Blocks; owns its threads and runtimes.
///
/// # Errors
/// [`Error`] if the server could not start, or if the drain took longer than its grace.
pub fn run(mut options: ServeOptions) -> Result<(), Error> {
    options.flags = options.package.flag_values(&options.flags).map_err(Error::Flags)?;
    let model = match options.package.model_file(&options.flags) {
        Some(model) => options.package_dir.join(model),
        None if matches!(options.package.runtime, Runtime::Python { .. }) => options.package_dir.clone(),
        None => {
            let package = format!("{}:{}", options.package.name, options.package.version);
            return Err(Error::Runtime { package, runtime: options.package.runtime.name() });
        }
    };
    let listener = listen(options.http, options.reachable)?;
    let probe = options.probe.map(|asked| listen(asked, options.reachable)).transpose()?;
    let announcement = Announcement {
        address: address(&listener, options.http)?,
        probe: probe.as_ref().zip(options.probe).map(|(probe, asked)| address(probe, asked)).transpose()?,
    };
    let shared = Arc::new(Shared::new(&options));
    if let Some(listener) = probe {
        probe::start(listener, shared.clone())?;
    }
    let (fail, failed) = oneshot::channel();
    let (engines, receivers): (Vec<_>, Vec<_>) = (0..shared.threads()).map(|_| oneshot::channel()).unzip();
    let mut receivers = receivers.into_iter();
    let own = receivers.next();
    let mut others = vec![];
    for (index, engine) in (1..).zip(receivers) {
        let (sender, connections) = mpsc::unbounded_channel();
        accept::start(index, shared.clone(), connections, engine)?;
        others.push(sender);
    }
    let on_listening = options.on_listening.take();
    let announce = options.announce.take();
    let grace = options.grace;
    loader::start(shared.clone(), options, model, engines, fail)?;
    if let Some(path) = &announce {
        announce::write(path, &announcement)?;
    }
    tracing::info!(address = %announcement.address, probe = ?announcement.probe, "listening");
    if let Some(call) = on_listening {
        call(&announcement);
    }
    accept::run(listener, shared, others, own, failed, grace)
}

fn listen(asked: SocketAddr, reachable: bool) -> Result<TcpListener, Error> {
    if !reachable && !asked.ip().is_loopback() {
        return Err(Error::NotLoopback { address: asked });
    }
    let bind = || {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(asked), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&asked.into())?;
        // Room for a burst of fresh connections while the acceptor runs an inference.
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    bind().map_err(|source| Error::Listen { address: asked, source })
}

fn address(listener: &TcpListener, asked: SocketAddr) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|source| Error::Listen { address: asked, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_are_kept_out() {
        let error = listen("0.0.0.0:0".parse().unwrap(), false).unwrap_err().to_string();
        assert!(error.contains("loopback"), "{error}");
        assert!(listen("0.0.0.0:0".parse().unwrap(), true).is_ok());
        assert!(listen("127.0.0.1:0".parse().unwrap(), false).is_ok());
    }

    #[test]
    fn a_port_in_use_says_so() {
        let first = listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let error = listen(first.local_addr().unwrap(), false).unwrap_err();
        assert!(matches!(error, Error::Listen { .. }), "{error}");
    }
}
