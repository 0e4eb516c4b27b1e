//! Devices that are there already: what each says it is.

use std::fs;
use std::path::Path;

/// Where the kernel shows every device once.
const DEVICES: &str = "/sys/devices";

/// No device stands deeper; a bound, should the kernel ever show a circle.
const MAX_DEPTH: u32 = 32;

/// What each device says it is. Devices of a class (keyboards) stand among those of buses.
pub fn modaliases() -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new(DEVICES), 0, &mut found);
    found.sort();
    found.dedup();
    found
}

fn walk(folder: &Path, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return }; // gone meanwhile
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => walk(&entry.path(), depth + 1, found),
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let text = text.trim();
                if !text.is_empty() {
                    found.push(text.to_owned());
                }
            }
            _ => {}
        }
    }
}
