//! Everything that differs between operating systems: owners, modes, links, private files, refusals.
//!
//! Only safe standard-library calls are used. The standard library cannot name the effective user, so it is
//! read from `/proc/self/status` and, where there is no `/proc`, taken from the owner of a file made for the
//! purpose.
//!
//! On systems without Unix modes the ownership checks have nothing to look at and accept; the default folder
//! there lies in the user's profile, which the system itself protects.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Why a folder or file of the cache is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It is a symbolic link, which could point anywhere.
    #[error("`{}` is a symbolic link: name the real folder", .0.display())]
    Symlink(PathBuf),
    /// It is not a folder, or not a regular file.
    #[error("`{}` is of the wrong kind (a folder or a regular file was expected): move it away", .0.display())]
    Kind(PathBuf),
    /// Another user owns it.
    #[error("`{}` belongs to user {owner}, not to user {user}: run `chown {user} {}` or choose another folder", path.display(), path.display())]
    Owner {
        /// What was looked at.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// Others may write it.
    #[error("`{}` may be written by other users (mode {mode:03o}): run `chmod go-w {}`", path.display(), path.display())]
    Mode {
        /// What was looked at.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The effective user of this process could not be found out.
    #[error(
        "the effective user of this process is unknown: mount /proc or give a writable temporary folder"
    )]
    UnknownUser,
}

/// Whose files are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Only the effective user's.
    Own,
    /// The effective user's and root's: for read-only layers that an administrator installed.
    OwnOrRoot,
}

/// Checks a folder without following a link in its last component.
pub(crate) fn check_dir(path: &Path, trust: Trust) -> io::Result<Result<(), Distrust>> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return Ok(Err(Distrust::Symlink(path.to_owned())));
    }
    if !metadata.is_dir() {
        return Ok(Err(Distrust::Kind(path.to_owned())));
    }
    Ok(check_owner(path, &metadata, trust))
}

/// Checks an open file by its handle, so nothing can change between the check and the reading.
pub(crate) fn check_file(path: &Path, metadata: &Metadata, trust: Trust) -> Result<(), Distrust> {
    if !metadata.is_file() {
        return Err(Distrust::Kind(path.to_owned()));
    }
    check_owner(path, metadata, trust)
}

/// Whether a failed write says that later writes will fail too: full or read-only disk, quota, no permission.
pub(crate) fn writing_is_hopeless(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}

/// Moves a finished file to its name, replacing what was there in one step.
pub(crate) fn publish(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
    use std::sync::OnceLock;

    /// Creates a folder and its missing parents, readable by this user only.
    pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }

    /// Creates a new file that only this user can read; fails if the name exists.
    pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    }

    /// Opens or creates a file to lock.
    pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    }

    /// Opens a file to read without following a link. A pipe or a device cannot block the call.
    pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    }

    /// Whether an open file is still the one of this name.
    pub(crate) fn is_at(file: &File, path: &Path) -> bool {
        let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (file.metadata(), std::fs::symlink_metadata(path)) {
            (Ok(open), Ok(named)) => same(open, named),
            _ => false,
        }
    }

    /// Whether opening failed because the last component is a symbolic link.
    pub(crate) fn is_symlink_refusal(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(code) if code == libc::ELOOP || code == libc::EMLINK)
    }

    pub(super) fn check_owner(
        path: &Path,
        metadata: &Metadata,
        trust: Trust,
    ) -> Result<(), Distrust> {
        let user = effective_user().ok_or(Distrust::UnknownUser)?;
        let owner = metadata.uid();
        if owner != user && !(trust == Trust::OwnOrRoot && owner == 0) {
            return Err(Distrust::Owner {
                path: path.to_owned(),
                owner,
                user,
            });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(Distrust::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(())
    }

    /// The effective user of this process.
    fn effective_user() -> Option<u32> {
        static USER: OnceLock<Option<u32>> = OnceLock::new();
        *USER.get_or_init(|| {
            ids("Uid:").map(|[_, effective]| effective).or_else(|| {
                let path =
                    std::env::temp_dir().join(format!(".bespoke-who-{}", std::process::id()));
                let owner = create_private_file(&path)
                    .and_then(|file| file.metadata())
                    .map(|found| found.uid())
                    .ok();
                if owner.is_some() {
                    // A leftover empty file is harmless, and its name carries the process.
                    let _ = std::fs::remove_file(&path);
                }
                owner
            })
        })
    }

    /// Whether this process runs with rights that its caller lacks (set-uid, set-gid, file capabilities): then
    /// the environment that names the folder comes from somebody else.
    pub(crate) fn runs_elevated() -> bool {
        let differs = |field| ids(field).is_some_and(|[real, effective]| real != effective);
        differs("Uid:") || differs("Gid:") || at_secure()
    }

    /// Real and effective number from a line of `/proc/self/status`.
    fn ids(field: &str) -> Option<[u32; 2]> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mut numbers = status
            .lines()
            .find_map(|line| line.strip_prefix(field))?
            .split_whitespace();
        Some([numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?])
    }

    /// The kernel's own verdict, from the auxiliary vector (tag 23 in `elf.h`).
    fn at_secure() -> bool {
        const AT_SECURE: usize = 23;
        let word = size_of::<usize>();
        let auxiliary = std::fs::read("/proc/self/auxv").unwrap_or_default();
        auxiliary.chunks_exact(2 * word).any(|pair| {
            let number = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or(0);
            number(&pair[..word]) == AT_SECURE && number(&pair[word..]) != 0
        })
    }
}

#[cfg(not(unix))]
mod other {
    use super::*;

    pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
    }

    pub(crate) fn open_no_follow(path: &Path) -> io::Result<File> {
        if std::fs::symlink_metadata(path)?.file_type().is_symlink() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "symbolic link"));
        }
        File::open(path)
    }

    /// Nobody can put another file in the place of one that is open.
    pub(crate) fn is_at(_: &File, _: &Path) -> bool {
        true
    }

    pub(crate) fn is_symlink_refusal(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::InvalidInput
    }

    pub(super) fn check_owner(_: &Path, _: &Metadata, _: Trust) -> Result<(), Distrust> {
        Ok(())
    }

    pub(crate) fn runs_elevated() -> bool {
        false
    }
}

#[cfg(not(unix))]
use other as system;
#[cfg(unix)]
use unix as system;

use system::check_owner;
pub(crate) use system::{
    create_private_dir, create_private_file, is_at, is_symlink_refusal, open_lock_file,
    open_no_follow, runs_elevated,
};

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn folders_made_here_are_private_and_trusted() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        create_private_dir(&dir).unwrap();
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(check_dir(&dir, Trust::Own).unwrap(), Ok(()));
    }

    #[test]
    fn writable_by_others_linked_or_wrong_kind_is_distrusted() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d");
        create_private_dir(&dir).unwrap();
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(
                    check_dir(&dir, Trust::Own).unwrap(),
                    Err(Distrust::Mode { .. })
                ),
                "{mode:o}"
            );
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check_dir(&dir, Trust::Own).unwrap(), Ok(()));
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(matches!(
            check_dir(&link, Trust::Own).unwrap(),
            Err(Distrust::Symlink(_))
        ));
        let file = temp.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(
            check_dir(&file, Trust::Own).unwrap(),
            Err(Distrust::Kind(_))
        ));
    }

    #[test]
    fn another_users_folder_is_distrusted() {
        // The file-system root belongs to user 0; whoever runs the tests either owns it or not.
        let verdict = check_dir(Path::new("/"), Trust::Own).unwrap();
        let mine = tempfile::tempdir().unwrap();
        use std::os::unix::fs::MetadataExt;
        let (root, me) = (
            Path::new("/").metadata().unwrap().uid(),
            mine.path().metadata().unwrap().uid(),
        );
        assert_eq!(matches!(verdict, Err(Distrust::Owner { .. })), root != me);
        if root == 0 {
            assert!(!matches!(
                check_dir(Path::new("/"), Trust::OwnOrRoot).unwrap(),
                Err(Distrust::Owner { .. })
            ));
        }
    }

    #[test]
    fn links_are_not_opened_and_pipes_do_not_block() {
        let temp = tempfile::tempdir().unwrap();
        let (file, link) = (temp.path().join("f"), temp.path().join("l"));
        std::fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(is_symlink_refusal(&open_no_follow(&link).unwrap_err()));
        let pipe = temp.path().join("p");
        if std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .is_ok_and(|status| status.success())
        {
            let open = open_no_follow(&pipe).unwrap();
            assert!(matches!(
                check_file(&pipe, &open.metadata().unwrap(), Trust::Own),
                Err(Distrust::Kind(_))
            ));
        }
    }

    #[test]
    fn this_test_runs_without_borrowed_rights() {
        assert!(!runs_elevated());
    }
}
