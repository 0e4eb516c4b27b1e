//! The first process of a machine image (format `vm`): loads drivers, mounts the root, brings the network up, runs the model server, ends
//! the machine.
//!
//! Promises: the machine always ends on its own terms: switched off when asked to, or when it cannot start, with the reason on the console; the
//! server does not wait for the network; nothing of the disk is written.
//! Absent on purpose: services, users, shells, logs on disk: the machine runs one program and tells what happens on its console.

mod clock;
mod console;
mod devices;
#[cfg(fuzzing)]
pub mod fuzz;
mod glob;
mod machine;
mod modules;
mod mounts;
mod network;
mod power;
mod program;
mod root;
mod uevent;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use console::say;
use machine::Machine;
use modelyard_core::boot::{Boot, DOCUMENT};
use modules::Modules;
use network::Network;
use power::{Buttons, End, Signals};
use root::Found;
use uevent::Events;

/// Who looks at a screen has this long to read why the machine did not start.
const READING: Duration = Duration::from_secs(5);

/// If this process is one that the kernel of a machine started, does what it is there for: the first one is the machine, to its end; others pass
/// on what somebody asked the kernel for, and end with this code.
pub fn take_over() -> Option<ExitCode> {
    if std::process::id() == 1 && Path::new(DOCUMENT).exists() {
        run();
    }
    power::is_messenger().then(|| power::pass_on().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Is the first process of a machine, to its end.
fn run() -> ! {
    // If the first process ended, also by a panic, the kernel would stop with all that it knows on the screen.
    let end = match catch_unwind(AssertUnwindSafe(live)) {
        Ok(Ok(end)) => end,
        Ok(Err(reason)) => failed(&reason),
        Err(_) => failed("a fault in Modelyard itself, told above; please report it"),
    };
    power::kill_all();
    power::end(end)
}

fn failed(reason: &str) -> End {
    say(format_args!("cannot go on: {reason}"));
    say(format_args!("switching off in {} s", READING.as_secs()));
    clock::wait(&mut [], Some(READING));
    End::Off
}

fn live() -> Result<End, String> {
    mounts::kernel()?;
    console::open_as_standard();
    let bytes = fs::read(DOCUMENT).map_err(|error| format!("{DOCUMENT} cannot be read: {error}"))?;
    let boot = Boot::parse(&bytes)?;
    say(format_args!("{} ({})", boot.name, boot.package));
    let failed = |what: &'static str| move |error: std::io::Error| format!("could not {what}: {error}");
    let signals = Signals::listen().map_err(failed("listen for signals"))?;
    let events = Events::listen().map_err(failed("listen for devices"))?;
    let mut modules = Modules::new(boot.modules).map_err(failed("open the initial RAM file system"))?;
    modules.load_for_devices();
    let mut buttons = Buttons::default();
    let asked = || {
        buttons.look();
        signals.asked().or_else(|| buttons.pressed().then_some(End::Off))
    };
    let device = match root::find(&boot.root, &mut modules, &events, asked)? {
        Found::Device(device) => device,
        Found::Asked(end) => {
            say(end);
            return Ok(end);
        }
    };
    mounts::root(&device)?;
    mounts::enter()?;
    say(format_args!("the root is {device}"));
    name(&boot.hostname);
    console::give_to(boot.program.user, boot.program.group);
    program::raise_limits();
    power::be_told();
    let network = Network::start(&boot.hostname, mounts::resolver())
        .inspect_err(|error| say(format_args!("there is no network: {error}")));
    Ok(Machine { modules, events, signals, buttons, network: network.ok(), program: boot.program }.live())
}

fn name(hostname: &str) {
    if let Err(error) = rustix::system::sethostname(hostname.as_bytes()) {
        say(format_args!("the machine could not be named {hostname}: {error}"));
    }
}
