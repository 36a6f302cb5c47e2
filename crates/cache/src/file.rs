//! Single files of the cache: read whole and with suspicion, written whole or not at all.
//!
//! A reader opens without following links and looks at owner, mode and size by the handle, so that what was checked is
//! what is read. A writer fills a private file of another name, flushes it to the disk and renames it; nobody ever sees a
//! part of one. Both take a function that is called before each step, by which tests let the file system fail there.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::entry::MAX_FILE;
use crate::os::{self, Distrust, Trust};
use crate::stats::MissReason;

/// A hit renews an entry's time of use only when that is older than this: a run of hits writes nothing.
const RENEW_AFTER: Duration = Duration::from_secs(300);

/// Reads a whole entry file after checking its kind, owner, mode and size by its handle; also says when it was used last,
/// where the system knows.
pub(crate) fn read_entry_file(
    path: &Path,
    trust: Trust,
    step: impl Fn() -> std::io::Result<()>,
) -> Result<(Vec<u8>, Option<SystemTime>), MissReason> {
    let io = |error: std::io::Error| MissReason::Io(error.to_string());
    let file = match step().and_then(|()| os::open_no_follow(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MissReason::Absent);
        }
        Err(error) if os::is_symlink_refusal(&error) => {
            return Err(Distrust::Symlink(path.to_owned()).into());
        }
        Err(error) => return Err(io(error)),
    };
    let about = step().and_then(|()| file.metadata()).map_err(io)?;
    os::check_file(path, &about, trust)?;
    if about.len() > MAX_FILE {
        return Err(MissReason::TooLarge(about.len()));
    }
    // At most MAX_FILE bytes, which the file really has; one more is asked for to notice a growing file.
    let mut bytes = Vec::with_capacity(about.len() as usize + 1);
    step()
        .and_then(|()| file.take(about.len() + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    Ok((bytes, about.modified().ok()))
}

/// Marks an entry as used now, if its mark is old: what was read just now need not be opened a second time to see that
/// the mark is fresh, as it is in nearly all cases.
pub(crate) fn renew_use(path: &Path, marked: Option<SystemTime>) -> std::io::Result<()> {
    // A mark in the future is one of a clock that was wrong.
    let age = |mark: SystemTime| mark.elapsed().unwrap_or_else(|ahead| ahead.duration());
    if marked.is_none_or(|mark| age(mark) > RENEW_AFTER) {
        os::open_no_follow(path)?.set_modified(SystemTime::now())?;
    }
    Ok(())
}

/// Writes `parts` to a private file in `temp`, flushes it to the disk and renames it to `path`.
pub(crate) fn write_atomically(
    temp: &Path,
    path: &Path,
    parts: &[&[u8]],
    step: impl Fn() -> std::io::Result<()>,
) -> std::io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    // Process, counter and clock: also unique where processes of several containers share the folder.
    let name = format!(
        "{}-{}-{nanos}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let draft = temp.join(name);
    let written = (|| {
        step()?;
        os::create_private_dir(temp)?;
        let mut file = os::create_private_file(&draft)?;
        for part in parts {
            step()?;
            file.write_all(part)?;
        }
        let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if file.metadata()?.len() != length {
            return Err(std::io::Error::new(
                std::io::ErrorKind::WriteZero,
                "the file is shorter than what was written",
            ));
        }
        step()?;
        file.sync_all()?;
        step()?;
        os::publish(&draft, path)
    })();
    if written.is_err() {
        // What cannot be removed now is swept as a stale file later.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
pub(crate) mod faults {
    //! Lets the n-th file operation fail.

    use std::io;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    pub(crate) struct Faults(Mutex<Option<(u32, io::ErrorKind)>>);

    impl Faults {
        /// The operation after `after` more fails with `kind`, once.
        pub(crate) fn arm(&self, after: u32, kind: io::ErrorKind) {
            *self.0.lock().unwrap() = Some((after, kind));
        }

        /// Whether the armed fault has not happened yet; disarms.
        pub(crate) fn disarm(&self) -> bool {
            self.0.lock().unwrap().take().is_some()
        }

        pub(crate) fn step(&self) -> io::Result<()> {
            let mut armed = self.0.lock().unwrap();
            match armed.take() {
                None => Ok(()),
                Some((0, kind)) => Err(kind.into()),
                Some((left, kind)) => {
                    *armed = Some((left - 1, kind));
                    Ok(())
                }
            }
        }
    }
}
