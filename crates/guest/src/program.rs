//! The program of the machine: started, started again when it ends, asked to end.
//!
//! Promises: it runs as its user and group and no other, with its own environment only, in a process group of its own; a program that
//! ends at once is not started more often than every 30 s; what it leaves running ends before it is started again.
//! Absent on purpose: limits (the machine is the limit) and probes (whoever sends requests has them).

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use modelyard_core::boot;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};

/// A server holds a file per connection; what the kernel gives its first process is too little.
const FILES: u64 = 1 << 20;

/// When the program is started again after it ended.
#[derive(Debug, Default)]
pub struct Schedule {
    /// How often in a row it ended soon.
    failures: u32,
}

impl Schedule {
    /// After it ran this long it was well, and what comes counts from the start.
    const WELL: Duration = Duration::from_secs(60);

    /// The longest pause.
    const MAX: Duration = Duration::from_secs(30);

    /// The pause after a run of this length: 1 s, 2 s, 4 s … 30 s.
    pub fn pause(&mut self, ran: Duration) -> Duration {
        if ran >= Self::WELL {
            self.failures = 0;
        }
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(Self::MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// Starts the program.
///
/// # Errors
/// Why it cannot be executed.
pub fn start(program: &boot::Program) -> Result<Pid, String> {
    let name = program.arguments.first().ok_or("the image names no program to start")?;
    let mut command = Command::new(name);
    command
        .args(&program.arguments[1..])
        .env_clear()
        .envs(program.environment.iter().filter_map(|variable| variable.split_once('=')))
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        // With the user, the standard library drops all supplementary groups.
        .gid(program.group)
        .uid(program.user)
        // Not ours: `kill 0` of a shell script must not reach the first process.
        .process_group(0);
    let child = command.spawn().map_err(|error| failed(program, name, &error))?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| "the kernel gave no process number".to_owned())
}

fn failed(program: &boot::Program, name: &str, error: &io::Error) -> String {
    format!("{name} could not be started in {} as user {}: {error}", program.folder, program.user)
}

/// Lets this process and what it starts open as many files as a server needs.
pub fn raise_limits() {
    let limit = Rlimit { current: Some(FILES), maximum: Some(FILES) };
    let _ = setrlimit(Resource::Nofile, limit); // then it has what the kernel gives
}

/// Asks the program to end. Only itself: it knows best how to end what it started.
pub fn ask_to_end(pid: Pid) {
    let _ = kill_process(pid, Signal::TERM); // it may just have ended
}

/// How often the kernel has ended a process because memory was used up.
pub fn out_of_memory_kills() -> u64 {
    kills(&fs::read_to_string("/proc/vmstat").unwrap_or_default())
}

fn kills(vmstat: &str) -> u64 {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// How a program ended, as a part of a sentence.
pub fn describe(code: Option<i32>, signal: Option<i32>, out_of_memory: bool) -> String {
    match (code, signal) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(9)) if out_of_memory => {
            "was killed because the memory of the machine was used up; give it more, or the server less to do".into()
        }
        (None, Some(6)) => "aborted (signal 6)".into(),
        (None, Some(11)) => "crashed (signal 11: it touched memory that is not its own)".into(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use modelyard_core::boot;

    use super::{Schedule, describe, kills, start};

    #[test]
    fn pauses_grow_to_half_a_minute_and_start_over_once_it_ran_well() {
        let mut schedule = Schedule::default();
        let mut pause = |ran| schedule.pause(Duration::from_secs(ran)).as_secs();
        assert_eq!([0; 8].map(&mut pause), [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!([59, 60, 0, 3_600, 0].map(&mut pause), [30, 1, 2, 1, 2]);
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let mut program = boot::Program {
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: "/".into(),
            user: rustix::process::getuid().as_raw(),
            group: rustix::process::getgid().as_raw(),
        };
        assert!(start(&program).unwrap_err().contains("names no program"));
        program.arguments = vec!["/not/there".into()];
        let told = start(&program).unwrap_err();
        assert!(told.contains("/not/there") && told.contains("No such file"), "{told}");
    }

    #[test]
    fn the_kernel_is_asked_whether_memory_was_used_up() {
        assert_eq!(kills("nr_free_pages 99\noom_kill 2\nnuma_hit 0\n"), 2);
        assert_eq!(kills("oom_kill\n"), 0);
        assert!(describe(None, Some(9), true).contains("memory of the machine"));
        assert_eq!(describe(None, Some(9), false), "was ended by signal 9");
        assert_eq!(describe(Some(3), None, true), "ended with code 3");
    }
}
