//! Kernel modules: which of them the devices of this machine want, and in which order they are loaded.
//!
//! Promises: each is tried once; what it needs is loaded before it; one that fails is told of and is not the end.
//! Absent on purpose: unloading, parameters, compression.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use modelyard_core::boot::Module;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::system::finit_module;

use crate::console::say;
use crate::devices;
use crate::glob;
use crate::uevent::Batch;

/// Virtual buses bring devices with others behind them; nobody has this many of them inside each other.
const MAX_ROUNDS: u32 = 16;

/// The modules of the machine.
#[derive(Debug)]
pub struct Modules {
    all: Vec<Module>,
    /// The initial RAM file system: it stays open, so that drivers are found when the root is another one.
    files: OwnedFd,
    /// Names of those that were tried.
    tried: BTreeSet<String>,
}

impl Modules {
    /// These modules, in the file system that is the root now.
    pub fn new(all: Vec<Module>) -> io::Result<Self> {
        let files = rustix::fs::open("/", OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { all, files, tried: BTreeSet::new() })
    }

    /// Loads those that every machine has, then those of the devices that are there, until no more come.
    pub fn load_for_devices(&mut self) {
        let always: Vec<String> =
            self.all.iter().filter(|module| module.always).map(|module| module.name.clone()).collect();
        self.load(&always);
        for _ in 0..MAX_ROUNDS {
            if !self.load_for(&devices::modaliases()) {
                return;
            }
        }
    }

    /// Loads what drives a device that says this of itself. Whether anything was tried that was not before.
    fn load_for(&mut self, modaliases: &[String]) -> bool {
        let drives = |module: &&Module| {
            module.aliases.iter().any(|alias| modaliases.iter().any(|modalias| glob::matches(alias, modalias)))
        };
        let untried = |module: &&Module| !self.tried.contains(&module.name);
        let names: Vec<String> =
            self.all.iter().filter(untried).filter(drives).map(|module| module.name.clone()).collect();
        self.load(&names);
        !names.is_empty()
    }

    /// Loads what drives the devices that came.
    pub fn follow(&mut self, batch: &Batch) {
        if batch.lost {
            self.load_for_devices();
        }
        let modaliases: Vec<String> = batch.came().filter_map(|event| event.modalias.clone()).collect();
        if !modaliases.is_empty() {
            self.load_for(&modaliases);
        }
    }

    fn load(&mut self, names: &[String]) {
        let mut missing = Vec::new();
        for module in in_order(&self.all, names, &mut missing) {
            if !self.tried.insert(module.name.clone()) {
                continue;
            }
            match self.insert(module) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(Errno::NODEV) => {} // it looked, and what it drives is not there
                Err(error) => say(format_args!("the driver {} could not be loaded: {error}", module.name)),
            }
        }
        for name in missing {
            if self.tried.insert(name.to_owned()) {
                say(format_args!("the driver {name} is needed by another one and is not in this image"));
            }
        }
    }

    fn insert(&self, module: &Module) -> Result<(), Errno> {
        let path = module.path.trim_start_matches('/');
        let file = openat(&self.files, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        finit_module(file, c"", 0)
    }
}

/// The modules of these names with everything that they need before them. Names without a module are put into `missing`.
fn in_order<'a>(all: &'a [Module], names: &'a [String], missing: &mut Vec<&'a str>) -> Vec<&'a Module> {
    let mut ordered = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        place(all, name, &mut seen, &mut ordered, missing);
    }
    ordered
}

fn place<'a>(
    all: &'a [Module],
    name: &'a str,
    seen: &mut BTreeSet<&'a str>,
    ordered: &mut Vec<&'a Module>,
    missing: &mut Vec<&'a str>,
) {
    // Seen before it is placed: a circle ends here.
    if !seen.insert(name) {
        return;
    }
    let Some(module) = all.iter().find(|module| module.name == name) else { return missing.push(name) };
    for need in &module.needs {
        place(all, need, seen, ordered, missing);
    }
    ordered.push(module);
}

#[cfg(test)]
mod tests {
    use modelyard_core::boot::Module;
    use proptest::prelude::*;

    use super::in_order;

    fn module(name: &str, needs: &[&str]) -> Module {
        Module {
            name: name.into(),
            path: format!("/{name}.ko"),
            aliases: Vec::new(),
            always: false,
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        }
    }

    fn names(all: &[Module], wanted: &[&str]) -> (Vec<String>, Vec<String>) {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let mut missing = Vec::new();
        let ordered = in_order(all, &wanted, &mut missing);
        (ordered.iter().map(|module| module.name.clone()).collect(), missing.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let all = [
            module("virtio_net", &["net_failover", "virtio"]),
            module("net_failover", &["failover"]),
            module("failover", &[]),
            module("virtio", &[]),
            module("virtio_blk", &["virtio"]),
        ];
        let (ordered, missing) = names(&all, &["virtio_net", "virtio_blk"]);
        assert_eq!(ordered, ["failover", "net_failover", "virtio", "virtio_net", "virtio_blk"]);
        assert!(missing.is_empty());
    }

    #[test]
    fn what_is_not_there_is_told_and_the_rest_is_loaded() {
        let (ordered, missing) = names(&[module("a", &["gone", "b"]), module("b", &["gone"])], &["a"]);
        assert_eq!((ordered, missing), (vec!["b".to_owned(), "a".to_owned()], vec!["gone".to_owned()]));
    }

    #[test]
    fn circles_end() {
        let (ordered, _) = names(&[module("a", &["b"]), module("b", &["c"]), module("c", &["a"])], &["b"]);
        assert_eq!(ordered, ["a", "c", "b"]);
    }

    proptest! {
        #[test]
        fn needs_always_stand_before_where_there_is_no_circle(edges in proptest::collection::vec((0..12usize, 0..12usize), 0..40)) {
            let mut all: Vec<Module> = (0..12).map(|number| module(&format!("m{number}"), &[])).collect();
            // Only towards smaller numbers: no circle.
            for (from, to) in edges.into_iter().filter(|(from, to)| to < from) {
                all[from].needs.push(format!("m{to}"));
            }
            let (ordered, missing) = names(&all, &["m11", "m5", "m8"]);
            prop_assert!(missing.is_empty());
            let position = |name: &str| ordered.iter().position(|other| other == name);
            for name in &ordered {
                let module = all.iter().find(|module| module.name == *name).unwrap();
                for need in &module.needs {
                    prop_assert!(position(need) < position(name));
                }
            }
        }
    }
}
