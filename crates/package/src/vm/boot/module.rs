//! What a kernel module says of itself.
//!
//! Source: Linux, `include/linux/moduleinfo.h` and `scripts/mod/modpost.c`: the section `.modinfo` holds `key=value`, each ended by a zero byte.

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, SectionHeader as _};

/// Most devices that one driver names: those of the largest are some hundred.
const MOST_ALIASES: usize = 4_000;

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Names of other modules, with underscores.
    pub needs: Vec<String>,
    /// Patterns of devices.
    pub aliases: Vec<String>,
}

/// Reads the module in `bytes`; what is wrong is told in words.
pub fn read(bytes: &[u8]) -> Result<Told, String> {
    let damaged = |error: object::Error| format!("it is no kernel module: {error}");
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let sections = header.sections(endian, bytes).map_err(damaged)?;
    let (_, section) =
        sections.section_by_name(endian, b".modinfo").ok_or("it is no kernel module: it tells nothing")?;
    let text = section.data(endian, bytes).map_err(damaged)?;
    let mut told = Told::default();
    for line in text.split(|&byte| byte == 0).filter_map(|line| std::str::from_utf8(line).ok()) {
        match line.split_once('=') {
            Some(("depends", needs)) => {
                let names = needs.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_"));
                told.needs.extend(names);
            }
            Some(("alias", alias)) if told.aliases.len() < MOST_ALIASES => told.aliases.push(alias.to_owned()),
            _ => {}
        }
    }
    match told.needs.iter().all(|name| name.len() < 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
        true => Ok(told),
        false => Err("it needs a module whose name is none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_told() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for bytes in [&b""[..], b"\x7fELF", &own[..4096], &own] {
            assert!(read(bytes).unwrap_err().contains("no kernel module"));
        }
    }
}
