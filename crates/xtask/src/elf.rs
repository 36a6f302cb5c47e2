//! Which versions of glibc an executable asks for, read from its ELF file.
//!
//! A program built on a new system does not start on an old one if it uses a symbol version that the old glibc lacks.
//! The linker writes the versions it needs into the section `.gnu.version_r` (System V ABI, GNU extension: a chain of
//! `Elf64_Verneed` records, each with a chain of `Elf64_Vernaux`), so that no other tool is needed to see them.

/// A glibc version, e.g. (2, 36).
pub(crate) type Version = (u32, u32);

const SHT_GNU_VERNEED: u32 = 0x6fff_fffe;

/// The highest `GLIBC_a.b` that a 64-bit little-endian ELF file needs; `None` if it needs none.
///
/// # Errors
///
/// A sentence that says where the file is not what it should be. No offset is trusted.
pub(crate) fn newest_glibc(file: &[u8]) -> Result<Option<Version>, String> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("not a 64-bit little-endian ELF file".into());
    }
    let sections = number(file, 0x28, 8)?;
    let size = number(file, 0x3a, 2)?;
    let count = number(file, 0x3c, 2)?;
    let mut newest = None;
    for i in 0..count {
        let header = sections
            .checked_add(i * size)
            .ok_or("a section header lies outside")?;
        if number(file, header + 4, 4)? != SHT_GNU_VERNEED as usize {
            continue;
        }
        let table = number(file, header + 24, 8)?;
        let needs = number(file, header + 44, 4)?;
        let names = sections + number(file, header + 40, 4)? * size;
        let names = number(file, names + 24, 8)?;
        let mut need = table;
        for _ in 0..needs {
            let mut entry = need + number(file, need + 8, 4)?;
            for _ in 0..number(file, need + 2, 2)? {
                let name = text(file, names + number(file, entry + 8, 4)?)?;
                newest = newest.max(version(name));
                entry += number(file, entry + 12, 4)?;
            }
            need += number(file, need + 12, 4)?;
        }
    }
    Ok(newest)
}

fn number(file: &[u8], at: usize, width: usize) -> Result<usize, String> {
    let bytes = at.checked_add(width).and_then(|end| file.get(at..end));
    let bytes = bytes.ok_or_else(|| format!("the file ends before offset {at}"))?;
    let value = bytes
        .iter()
        .rev()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    // Offsets are kept far from overflow, so that sums of a few of them need no further checks.
    usize::try_from(value)
        .ok()
        .filter(|v| *v < 1 << 40)
        .ok_or_else(|| format!("the value at {at} is too large"))
}

fn text(file: &[u8], at: usize) -> Result<&str, String> {
    let rest = file
        .get(at..)
        .ok_or_else(|| format!("the file ends before offset {at}"))?;
    let end = rest
        .iter()
        .position(|b| *b == 0)
        .ok_or("a name has no end")?;
    std::str::from_utf8(&rest[..end]).map_err(|e| e.to_string())
}

/// `GLIBC_2.34` -> (2, 34); other names (`GCC_3.0`, `GLIBC_PRIVATE`) are none.
fn version(name: &str) -> Option<Version> {
    let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_versions_are_read() {
        assert_eq!(version("GLIBC_2.34"), Some((2, 34)));
        assert_eq!(version("GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(version("GCC_3.0"), None);
        assert_eq!(version("GLIBC_PRIVATE"), None);
    }

    #[test]
    fn this_very_program_needs_some_glibc() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let newest = newest_glibc(&me).unwrap().unwrap();
        assert!(((2, 14)..(3, 0)).contains(&newest), "{newest:?}");
    }

    #[test]
    fn files_that_are_cut_off_or_foreign_are_errors() {
        assert!(newest_glibc(b"").is_err());
        assert!(newest_glibc(b"#!/bin/sh\n").is_err());
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(newest_glibc(&me[..0x100]).is_err());
        let mut wild = me[..0x40].to_vec();
        wild[0x28..0x30].fill(0xff);
        assert!(newest_glibc(&wild).is_err());
    }
}
