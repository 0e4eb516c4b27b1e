//! Control groups: limits that the kernel itself keeps, where this user may set them.
//!
//! Promises: only groups beside or below the caller's own are made, never a setting of a group that was there before; every group made is removed.
//! Absent on purpose: enabling controllers for others (`cgroup.subtree_control`), which is the administrator's to decide.
//! Source: Linux `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use modelyard_core::package::Resources;

/// Period over which a CPU share is granted, in µs: the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The control groups of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// The group that limits memory, if there is one.
    memory: Option<Group>,
    cpu: Option<PathBuf>,
    /// A group without limits: it tells which processes belong to the instance, whatever they do to hide it.
    roll: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Group {
    V1(PathBuf),
    V2(PathBuf),
}

impl Group {
    fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }
}

impl Groups {
    /// Makes what the limits need and the machine allows. What it does not allow is left out: the caller watches instead.
    pub fn make(name: &str, resources: Resources) -> Self {
        let places = Places::of_this_process();
        let memory = resources.memory_bytes.and_then(|bytes| places.memory(name, bytes));
        let cpu = resources.cpu_millis.and_then(|millis| places.cpu(name, millis, memory.as_ref()));
        let mut groups = Self { memory, cpu, roll: None };
        if groups.paths().is_empty() {
            groups.roll = places.roll(name);
        }
        groups
    }

    /// Folders of the groups, each once.
    pub fn paths(&self) -> Vec<PathBuf> {
        let memory = self.memory.as_ref().map(|group| group.path().to_owned());
        let mut paths: Vec<PathBuf> = memory.into_iter().chain(self.cpu.clone()).chain(self.roll.clone()).collect();
        paths.dedup();
        paths
    }

    /// The processes in the groups.
    pub fn members(&self) -> Vec<u32> {
        self.paths().iter().flat_map(|path| members(path)).collect()
    }

    /// Whether memory has a limit that the kernel keeps.
    pub fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Whether the kernel limits the memory of this process.
    pub fn limits_memory_of(&self, pid: u32) -> bool {
        self.memory.as_ref().is_some_and(|group| members(group.path()).contains(&pid))
    }

    /// How many processes of the group the kernel ended because it went past its memory limit.
    pub fn out_of_memory_kills(&self) -> u64 {
        let counts = match &self.memory {
            Some(Group::V1(path)) => fs::read_to_string(path.join("memory.oom_control")),
            Some(Group::V2(path)) => fs::read_to_string(path.join("memory.events")),
            None => return 0,
        };
        counts.ok().and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Most memory that the group ever held in bytes, file cache included.
    pub fn peak_bytes(&self) -> Option<u64> {
        let file = match self.memory.as_ref()? {
            Group::V1(path) => path.join("memory.max_usage_in_bytes"),
            Group::V2(path) => path.join("memory.peak"),
        };
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}

/// The processes of a group.
pub(crate) fn members(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Moves a process into a group.
pub(crate) fn join(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Groups of that name wherever this process would have made them.
pub(crate) fn existing(name: &str) -> Vec<PathBuf> {
    let Places { memory_v1, cpu_v1, unified } = Places::of_this_process();
    let (own, root) = unified.unzip();
    let above = own
        .iter()
        .flat_map(|own| own.ancestors())
        .take_while(|path| root.as_ref().is_some_and(|root| path.starts_with(root)));
    let places = above.map(Path::to_owned).chain(memory_v1).chain(cpu_v1);
    places.map(|place| place.join(name)).filter(|group| group.is_dir()).collect()
}

/// The groups that this process is in and that may limit its memory: its own and those around it.
pub(crate) fn memory_groups() -> Vec<PathBuf> {
    let Places { memory_v1, unified, .. } = Places::of_this_process();
    let Some((own, root)) = unified else { return memory_v1.into_iter().collect() };
    let around = own.ancestors().take_while(|path| path.starts_with(&root)).map(Path::to_owned);
    around.chain(memory_v1).collect()
}

/// Removes groups whose processes have ended. Repeating it does no harm.
pub(crate) fn remove(groups: &[PathBuf]) {
    for group in groups {
        // The kernel refuses while a process is in it; whoever looks next tries again.
        let _ = fs::remove_dir(group);
    }
}

/// `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Where groups may be made.
#[derive(Debug, Default)]
struct Places {
    memory_v1: Option<PathBuf>,
    cpu_v1: Option<PathBuf>,
    /// The folder of our own group and the hierarchy's root.
    unified: Option<(PathBuf, PathBuf)>,
}

impl Places {
    fn of_this_process() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    fn parse(own: &str, mounts: &str) -> Self {
        // `4:memory:/path`, `1:cpu,cpuacct:/path`, `0::/path`
        let own_path = |controller: &str| {
            own.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let mount = |kind: &str, option: Option<&str>| mounts.lines().find_map(|line| mount_point(line, kind, option));
        let v1 = |controller: &str| Some(mount("cgroup", Some(controller))?.join(own_path(controller)?));
        let unified = mount("cgroup2", None).and_then(|root| Some((root.join(own_path("")?), root)));
        Self { memory_v1: v1("memory"), cpu_v1: v1("cpu"), unified }
    }

    fn memory(&self, name: &str, bytes: u64) -> Option<Group> {
        if let Some(place) = self.unified_with("memory") {
            let settings = [("memory.max", bytes.to_string()), ("memory.oom.group", "1".to_owned())];
            let made = make(&place.join(name), &settings);
            // Without swap accounting the file is not there; the limit then holds for memory alone.
            return made.inspect(|path| drop(fs::write(path.join("memory.swap.max"), "0"))).map(Group::V2);
        }
        let made = make(&self.memory_v1.as_ref()?.join(name), &[("memory.limit_in_bytes", bytes.to_string())])?;
        let _ = fs::write(made.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        Some(Group::V1(made))
    }

    fn cpu(&self, name: &str, millis: u32, memory: Option<&Group>) -> Option<PathBuf> {
        let quota = (u64::from(millis) * CPU_PERIOD_MICROS / 1_000).max(1_000); // the kernel's least quota is 1 ms
        if let Some(place) = self.unified_with("cpu") {
            let max = [("cpu.max", format!("{quota} {CPU_PERIOD_MICROS}"))];
            // In the unified hierarchy a process is in one group only.
            return match memory {
                Some(Group::V2(path)) => set(path, &max).ok().map(|()| path.clone()),
                _ => make(&place.join(name), &max),
            };
        }
        let settings = [("cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        make(&self.cpu_v1.as_ref()?.join(name), &settings)
    }

    /// Below our own group, where that is ours to divide: without controllers, processes may be in both.
    fn roll(&self, name: &str) -> Option<PathBuf> {
        make(&self.unified.as_ref()?.0.join(name), &[])
    }

    /// The nearest group above our own whose children have the controller. Our own holds processes, so it cannot be the one.
    fn unified_with(&self, controller: &str) -> Option<PathBuf> {
        let (own, root) = self.unified.as_ref()?;
        let above = own.ancestors().skip(1).take_while(|path| path.starts_with(root));
        above.into_iter().find(|path| enables(path, controller)).map(Path::to_owned)
    }
}

fn enables(group: &Path, controller: &str) -> bool {
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    enabled.split_ascii_whitespace().any(|name| name == controller)
}

/// The mount point of a line of `/proc/self/mountinfo`, if the line is of that file system and has that super option.
fn mount_point(line: &str, kind: &str, option: Option<&str>) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (this_kind, options) = (right.next()?, right.nth(1)?);
    let matches = this_kind == kind && option.is_none_or(|option| options.split(',').any(|this| this == option));
    let mut left = left.split(' ').skip(3);
    // A mount of a part of the hierarchy (a container's view) shows paths that we cannot map: leave it alone.
    let whole = left.next()? == "/";
    (matches && whole).then_some(left.next()?).map(PathBuf::from)
}

fn make(path: &Path, settings: &[(&str, String)]) -> Option<PathBuf> {
    let made = fs::create_dir(path).and_then(|()| set(path, settings));
    if let Err(error) = made {
        remove(&[path.to_owned()]);
        tracing::debug!(group = %path.display(), %error, "no control group here");
        return None;
    }
    Some(path.to_owned())
}

fn set(path: &Path, settings: &[(&str, String)]) -> io::Result<()> {
    settings.iter().try_for_each(|(file, value)| fs::write(path.join(file), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS_V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn places_are_read_from_either_version() {
        let own = "9:name=systemd:/\n4:memory:/a/b\n1:cpu,cpuacct:/\n0::/\n";
        let mounts = "35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      36 30 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      37 30 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let places = Places::parse(own, mounts);
        assert_eq!(places.memory_v1.unwrap(), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(places.cpu_v1.unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/"));
        assert_eq!(places.unified.unwrap().1, Path::new("/sys/fs/cgroup/unified"));

        let places = Places::parse("0::/user.slice/user-1000.slice/session-1.scope\n", MOUNTS_V2);
        let (own, _) = places.unified.unwrap();
        assert_eq!(own, Path::new("/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope"));
        assert!(places.memory_v1.is_none());
    }

    #[test]
    fn a_partial_mount_or_nonsense_is_left_alone() {
        let partial = "36 30 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert!(Places::parse("4:memory:/docker/abc\n", partial).memory_v1.is_none());
        for text in ["", "x", ":::", "- - -", "0::"] {
            let places = Places::parse(text, text);
            assert!(places.memory_v1.is_none() && places.unified.is_none());
        }
    }

    #[test]
    fn the_nearest_delegating_group_is_taken_and_joined_by_one_group_for_all() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("user.slice");
        let own = slice.join("app.scope");
        fs::create_dir_all(&own).unwrap();
        fs::write(slice.join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let places = Places { unified: Some((own, root.path().to_owned())), ..Places::default() };
        let memory = places.memory("x", 1 << 20).unwrap();
        assert_eq!(memory.path(), slice.join("x"));
        let cpu = places.cpu("x", 500, Some(&memory));
        assert_eq!(fs::read_to_string(slice.join("x/cpu.max")).unwrap(), "50000 100000");
        assert_eq!(Groups { memory: Some(memory), cpu, roll: None }.paths(), [slice.join("x")]);
    }

    #[test]
    fn counts_are_fields_by_name() {
        assert_eq!(field("low 0\noom 7\noom_kill 3\noom_group_kill 1\n", "oom_kill"), Some(3));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(field("", "oom_kill"), None);
    }
}
