//! Finds the disk that holds the root.
//!
//! Promises: the partition is known by its name in the partition table; two of that name are refused, because nobody knows which one is meant;
//! when it does not come, the disks that did are told.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::clock;
use crate::console::say;
use crate::modules::Modules;
use crate::power::End;
use crate::uevent::Events;

/// How long a disk may take to appear: slow controllers and network disks take seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// After this long somebody who looks at the console wants to know what it waits for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The root is taken once no device came for this long: a second disk of the same name would be seen in it.
const QUIET: Duration = Duration::from_millis(100);

/// Events may be lost; a look at the disks costs little.
const LOOK: Duration = Duration::from_millis(500);

/// A disk or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Disk {
    /// Its file below `/dev`: `vda2`.
    device: String,
    /// Its name in the partition table.
    name: Option<String>,
    /// In bytes.
    size: u64,
}

/// What ended the search.
#[derive(Debug)]
pub enum Found {
    /// The partition; its file.
    Device(String),
    /// Somebody who did not want to wait.
    Asked(End),
}

/// Waits for the partition of this name and loads drivers of devices that appear meanwhile, until somebody `asked` for the end.
///
/// # Errors
/// What was found instead, once the time is over; or that there are two.
pub fn find(
    name: &str,
    modules: &mut Modules,
    events: &Events,
    mut asked: impl FnMut() -> Option<End>,
) -> Result<Found, String> {
    let start = clock::now();
    let mut told = false;
    loop {
        let found = choose(&disks(), name)?;
        let waited = clock::now().saturating_sub(start);
        let quiet = !follow(modules, events, if found.is_some() { QUIET } else { LOOK });
        match found {
            Some(device) if quiet => return Ok(Found::Device(format!("/dev/{device}"))),
            None if waited >= DEADLINE => return Err(not_found(name, &disks())),
            None if waited >= PATIENCE && !told => {
                say(format_args!("waiting for a disk with a partition named {name}"));
                told = true;
            }
            _ => {}
        }
        if let Some(end) = asked() {
            return Ok(Found::Asked(end));
        }
    }
}

/// Waits for events, at most this long, and does what they ask for. Whether a device came.
fn follow(modules: &mut Modules, events: &Events, at_most: Duration) -> bool {
    clock::wait(&mut [PollFd::new(events, PollFlags::IN)], Some(at_most));
    let batch = events.read();
    modules.follow(&batch);
    batch.lost || batch.came().any(|event| event.subsystem == "block" || event.modalias.is_some())
}

fn choose(disks: &[Disk], name: &str) -> Result<Option<String>, String> {
    let mut named = disks.iter().filter(|disk| disk.name.as_deref() == Some(name));
    match (named.next(), named.next()) {
        (Some(one), Some(other)) => Err(format!(
            "there are two partitions named {name}: {} and {}; detach the disk that is not meant, then start the machine again",
            one.device, other.device
        )),
        (one, _) => Ok(one.map(|disk| disk.device.clone())),
    }
}

fn not_found(name: &str, disks: &[Disk]) -> String {
    let mut text = format!("no disk with a partition named {name} appeared within {} s; ", DEADLINE.as_secs());
    if disks.is_empty() {
        text.push_str("no disk was seen at all; attach the image as a virtio, NVMe or SCSI disk");
        return text;
    }
    text.push_str("these were seen: ");
    for (number, disk) in disks.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        let label = disk.name.as_ref().map(|name| format!(" named {name}")).unwrap_or_default();
        let _ = write!(text, "{comma}{} ({} MiB{label})", disk.device, disk.size >> 20);
    }
    text
}

/// What is there now, in the order of their names.
fn disks() -> Vec<Disk> {
    let mut disks = Vec::new();
    for entry in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let size = read("size").trim().parse().unwrap_or(0);
        disks.extend(parse(&read("uevent"), size));
    }
    disks.sort_by(|one, other| one.device.cmp(&other.device));
    disks
}

/// Reads the `uevent` file of a block device; `sectors` have 512 bytes. Devices without a medium are none.
fn parse(text: &str, sectors: u64) -> Option<Disk> {
    let value = |wanted: &str| text.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix('='));
    let device = value("DEVNAME").filter(|device| !device.is_empty() && sectors > 0)?;
    Some(Disk { device: device.into(), name: value("PARTNAME").map(str::to_owned), size: sectors.saturating_mul(512) })
}

#[cfg(test)]
mod tests {
    use super::{choose, not_found, parse};

    const ROOT: &str = "MAJOR=254\nMINOR=2\nDEVNAME=vda2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=modelyard-root\n";
    const WHOLE: &str = "MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\nDISKSEQ=1\n";

    #[test]
    fn the_partition_is_known_by_its_name() {
        let disks = [parse(WHOLE, 4_096).unwrap(), parse(ROOT, 2_048).unwrap()];
        assert_eq!(choose(&disks, "modelyard-root"), Ok(Some("vda2".into())));
        assert_eq!(choose(&disks, "modelyard"), Ok(None));
    }

    #[test]
    fn two_of_one_name_are_refused() {
        let other = parse(&ROOT.replace("vda2", "vdb2"), 2_048).unwrap();
        let refused = choose(&[parse(ROOT, 1).unwrap(), other], "modelyard-root").unwrap_err();
        assert!(refused.contains("vda2 and vdb2"), "{refused}");
    }

    #[test]
    fn what_was_seen_instead_is_told() {
        let text = not_found("modelyard-root", &[parse(WHOLE, 4_096).unwrap()]);
        assert!(text.contains("vda (2 MiB)"), "{text}");
        assert!(not_found("x", &[]).contains("no disk was seen at all"));
    }

    #[test]
    fn drives_without_a_medium_are_none() {
        assert_eq!(parse(WHOLE, 0), None);
        assert_eq!(parse("MAJOR=1\n", 8), None);
    }
}
