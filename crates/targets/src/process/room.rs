//! What this machine has left for further instances.
//!
//! Source: Linux `proc(5)` (`MemAvailable`), `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`. Of a group's usage the inactive file cache does not
//! count: the kernel gives it back before it ends anybody, which is also how the kubelet counts.

use std::fs;
use std::path::Path;

use modelyard_core::ports::Room;

use super::cgroup::memory_groups;

/// What is left now: the least of what the machine and the groups around this process allow.
pub(super) fn room() -> Room {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let groups = memory_groups().into_iter().filter_map(|group| left(&group));
    let cores = std::thread::available_parallelism().ok();
    Room {
        memory_bytes: machine.into_iter().chain(groups).min(),
        cpu_millis: cores.map(|cores| cores.get() as u64 * 1_000),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// What a group's limit leaves; none without a limit.
fn left(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // The names of version 2, then those of version 1, whose "no limit" is a number that no machine has.
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes")).filter(|&limit| limit < 1 << 60)?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let statistics = read("memory.stat").unwrap_or_default();
    let cache = |name: &str| statistics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let cached = cache("total_inactive_file ").or_else(|| cache("inactive_file ")).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_limit_less_what_cannot_be_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(left(folder.path()), None, "no group");
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(left(folder.path()), None, "no limit");
        write("memory.max", "1000\n");
        write("memory.stat", "anon 400\ninactive_file 300\n");
        assert_eq!(left(folder.path()), Some(600));
        let older = tempfile::tempdir().unwrap();
        fs::write(older.path().join("memory.limit_in_bytes"), "9223372036854771712").unwrap();
        fs::write(older.path().join("memory.usage_in_bytes"), "5").unwrap();
        assert_eq!(left(older.path()), None, "version 1 without a limit");
        assert_eq!(available("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn this_machine_tells() {
        let room = room();
        assert!(room.memory_bytes.is_some_and(|bytes| bytes > 1 << 20) && room.cpu_millis >= Some(1_000), "{room:?}");
    }
}
