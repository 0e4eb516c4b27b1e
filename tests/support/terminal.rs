//! A terminal of one's own, for what only shows when a person looks on.

use std::fs::File;
use std::io::Read as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Runs a program on a terminal of 120 columns; what it draws, as it comes.
pub fn run(command: &mut Command) -> (Child, Arc<Mutex<String>>) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 50, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    let stream = || slave.try_clone().unwrap();
    let child = command.env("TERM", "xterm").stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
    let (drawn, mut master) = (Arc::new(Mutex::new(String::new())), File::from(master));
    let screen = drawn.clone();
    // What is drawn must be read, or the program would wait for room. The last reader is told by an error that nobody writes any more.
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            screen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    (child, drawn)
}
