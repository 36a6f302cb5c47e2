//! Opening a file that a model names, without letting the model reach outside its folder.
//!
//! A model is data from strangers, and `external_data.location` is a path that the stranger chose. The path is
//! walked one component at a time from an open handle of the model's folder; no component may be a symbolic link,
//! the last must be a regular file with exactly one hard link. Nothing outside the folder is opened, not even to look
//! at it, and swapping a directory for a link between the check and the opening gains nothing: on Unix each step is
//! an `openat` that itself refuses links, and the properties are read from the handle that was opened.
//!
//! This module holds all that differs between operating systems in this crate.

use std::fs::File;
use std::path::Path;

/// Splits a location into its components, refusing everything that is not a plain relative path.
///
/// `./` is dropped. Backslashes are refused: on one system they separate folders, on another they are letters.
pub(crate) fn components(location: &str) -> Result<Vec<&str>, String> {
    if location.is_empty() {
        return Err("the location is empty".into());
    }
    if location.contains('\0') {
        return Err("the location contains a NUL byte".into());
    }
    if location.starts_with('/') {
        return Err("absolute paths are refused; the file must lie next to the model".into());
    }
    if location.contains('\\') {
        return Err("backslashes are refused; separate folders with '/'".into());
    }
    if location.as_bytes().get(1) == Some(&b':') {
        return Err("drive letters are refused; the file must lie next to the model".into());
    }
    let mut parts = Vec::new();
    for part in location.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("'..' is refused; the file must lie in the model's folder".into()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() || location.ends_with('/') {
        return Err("the location names no file".into());
    }
    Ok(parts)
}

/// Opens the regular file `location` inside `root` for reading.
///
/// The error is the reason, to be put behind the tensor's name and the location.
pub(crate) fn open(root: &Path, location: &str) -> Result<File, String> {
    let parts = components(location)?;
    walk(root, &parts)
}

#[cfg(unix)]
fn walk(root: &Path, parts: &[&str]) -> Result<File, String> {
    use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, open, openat, statat};
    use rustix::io::Errno;

    let failed = |what: &str, error: Errno| format!("cannot open {what}: {error}");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut folder = open(root, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| failed("the model's folder", error))?;
    let Some((name, parents)) = parts.split_last() else {
        return Err("the location names no file".into());
    };
    let look = |folder: &_, name: &str| {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed(&format!("'{name}'"), e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            return Err(format!(
                "'{name}' is a symbolic link, which is refused; put the file itself next to the model"
            ));
        }
        Ok(kind)
    };
    for parent in parents {
        // Only for the message: the opening below refuses links by itself.
        look(&folder, parent)?;
        folder = openat(
            &folder,
            *parent,
            flags | OFlags::DIRECTORY | OFlags::NOFOLLOW,
            Mode::empty(),
        )
        .map_err(|error| failed(&format!("folder '{parent}'"), error))?;
    }
    if look(&folder, name)? != FileType::RegularFile {
        return Err("it is not a regular file".into());
    }
    // NONBLOCK: had the file been swapped for a pipe since, opening must not wait for a writer.
    let file = openat(
        &folder,
        *name,
        flags | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(|error| failed(&format!("'{name}'"), error))?;
    let stat = fstat(&file).map_err(|error| failed(&format!("'{name}'"), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is not a regular file".into());
    }
    if stat.st_nlink > 1 {
        return Err(format!(
            "the file has {} hard links, which is refused as it may be a file from elsewhere; copy it instead",
            stat.st_nlink
        ));
    }
    Ok(File::from(file))
}

#[cfg(not(unix))]
fn walk(root: &Path, parts: &[&str]) -> Result<File, String> {
    let mut path = root.to_owned();
    for (index, part) in parts.iter().enumerate() {
        path.push(part);
        let meta = std::fs::symlink_metadata(&path)
            .map_err(|error| format!("cannot open '{part}': {error}"))?;
        if meta.file_type().is_symlink() {
            return Err(format!(
                "'{part}' is a symbolic link, which is refused; put the file itself next to the model"
            ));
        }
        if index + 1 == parts.len() && !meta.is_file() {
            return Err("it is not a regular file".into());
        }
    }
    File::open(&path).map_err(|error| format!("cannot open the file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        assert_eq!(components("./a/b.bin"), Ok(vec!["a", "b.bin"]));
        assert_eq!(
            components("a:b"),
            Err("drive letters are refused; the file must lie next to the model".into())
        );
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "C:\\x",
            "\\\\host\\x",
            "a\0b",
            "a/",
            "a\\b",
        ] {
            assert!(components(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_and_special_files_are_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"secret").unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/good"), b"good").unwrap();
        symlink(outside.path().join("secret"), at("link")).unwrap();
        symlink(outside.path(), at("linkdir")).unwrap();
        symlink(at("sub"), at("inside")).unwrap();
        std::fs::write(at("twice"), b"x").unwrap();
        std::fs::hard_link(at("twice"), at("twin")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();

        assert!(super::open(dir.path(), "sub/good").is_ok());
        for (location, reason) in [
            ("link", "symbolic link"),
            ("linkdir/secret", "symbolic link"),
            ("inside/good", "symbolic link"),
            ("twin", "hard links"),
            ("pipe", "not a regular file"),
            ("sub", "not a regular file"),
            ("absent", "cannot open"),
            ("sub/good/x", "cannot open"),
        ] {
            let error = super::open(dir.path(), location).unwrap_err();
            assert!(error.contains(reason), "{location}: {error}");
        }
    }
}
