//! Which compiler build there is, known without loading it.
//!
//! Kernels in a cache are good for one build of the compiler, so who looks them up has to know which build there is. To
//! load NVRTC only to ask it costs tens of megabytes and, off a cold disk, a good part of a start that needs no compiler
//! at all. A library that was loaded once is therefore [`Known`] by its file: as long as its path leads to a file of the
//! same length and the same time of change, it is the same build.
//!
//! [`SearchPlan::identify`] goes through the places as [`Nvrtc::load`] does, and stops where it would have to
//! load something to know more. It never guesses: a file that is not known, or that changed, is an answer of `None`, and
//! the caller loads.
//!
//! A library that the system's loader finds by its name depends on more than its file: on `LD_LIBRARY_PATH`, on
//! the loader's cache and on the executable. These are part of what is known of it.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::compiler::Nvrtc;
use crate::search::{Attempt, Found, SearchPlan, Tried, libraries_in};

/// A library that was loaded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What was asked for: a path, or a plain name.
    pub asked: String,
    /// What a plain name was found by; empty for a path.
    pub loader: String,
    /// The file.
    pub file: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// Its time of change, in nanoseconds since 1970.
    pub modified: u64,
    /// Its release.
    pub release: (u32, u32),
    /// [`Nvrtc::build`] of it.
    pub build: String,
}

impl Known {
    /// Whether the file is still the one that was loaded.
    fn is_current(&self) -> bool {
        stamp(&self.file) == Some((self.len, self.modified))
    }
}

impl Nvrtc {
    /// What to remember of this library, to know it again without loading it; `None` where the system does not say which
    /// file it is.
    #[must_use]
    pub fn known(&self) -> Option<Known> {
        let asked = match self.tried().last() {
            Some(Tried {
                what,
                found: Found::Loaded(_),
                ..
            }) => what.clone(),
            _ => return None,
        };
        let loader = match is_path(Path::new(&asked)) {
            true => String::new(),
            false => loader()?,
        };
        let file = PathBuf::from(self.library());
        let (len, modified) = stamp(&file).filter(|_| is_path(&file))?;
        Some(Known {
            asked,
            loader,
            file,
            len,
            modified,
            release: self.release(),
            build: self.build().to_owned(),
        })
    }
}

impl SearchPlan {
    /// The [build](Nvrtc::build) that [`Nvrtc::load`] would load, if that can be said without loading anything.
    #[must_use]
    pub fn identify<'k>(&self, known: &'k [Known]) -> Option<&'k str> {
        for place in &self.places {
            let asked: Vec<PathBuf> = match &place.attempt {
                Attempt::Folder(folder) => libraries_in(folder),
                Attempt::File(file) => vec![file.clone()],
                Attempt::Name(name) => vec![PathBuf::from(name)],
            };
            for path in asked {
                let by_name = !is_path(&path);
                if !by_name && !path.exists() {
                    continue;
                }
                let loader = if by_name { loader()? } else { String::new() };
                let fits = |k: &&Known| Path::new(&k.asked) == path && k.loader == loader;
                let found = known.iter().find(fits).filter(|k| k.is_current())?;
                if self.refusal(found.release).is_none() {
                    return Some(&found.build);
                }
            }
        }
        None
    }
}

/// Whether a library is named by its path and not left to the system's loader.
pub(crate) fn is_path(file: &Path) -> bool {
    file.components().count() > 1
}

/// Length and time of change of a file.
fn stamp(file: &Path) -> Option<(u64, u64)> {
    let about = file.metadata().ok()?;
    let modified = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((about.len(), u64::try_from(modified.as_nanos()).ok()?))
}

/// What decides which file the system's loader finds by a plain name; `None` where that is not known.
#[cfg(target_os = "linux")]
fn loader() -> Option<String> {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let executable = std::env::current_exe().ok()?;
    let (len, modified) = stamp(Path::new("/etc/ld.so.cache")).unwrap_or_default();
    Some(format!(
        "{} {} {len} {modified}",
        path.display(),
        executable.display()
    ))
}

#[cfg(not(target_os = "linux"))]
fn loader() -> Option<String> {
    None
}

#[cfg(all(test, not(windows)))]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A file that no system could load, and what would be known of it.
    fn library(folder: &Path, name: &str, release: (u32, u32)) -> Known {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join(name);
        std::fs::write(&file, b"no library").unwrap();
        let (len, modified) = stamp(&file).unwrap();
        Known {
            asked: file.display().to_string(),
            loader: String::new(),
            file,
            len,
            modified,
            release,
            build: format!("nvrtc {}.{}", release.0, release.1),
        }
    }

    fn plan(folders: &[PathBuf]) -> SearchPlan {
        SearchPlan::new(folders, |_| None)
    }

    #[test]
    fn a_known_file_is_identified_and_a_changed_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let known = [library(temp.path(), "libnvrtc.so.13", (13, 0))];
        let plan = plan(&[temp.path().to_owned()]);
        assert_eq!(plan.identify(&known), Some("nvrtc 13.0"));
        assert_eq!(plan.identify(&[]), None);

        let file = std::fs::File::options()
            .append(true)
            .open(&known[0].file)
            .unwrap();
        let then = UNIX_EPOCH + Duration::from_nanos(known[0].modified);
        file.set_modified(SystemTime::now() + Duration::from_secs(9))
            .unwrap();
        assert_eq!(plan.identify(&known), None, "another time of change");
        file.set_modified(then).unwrap();
        assert_eq!(plan.identify(&known), Some("nvrtc 13.0"));
        file.set_len(3).unwrap();
        file.set_modified(then).unwrap();
        assert_eq!(plan.identify(&known), None, "another length");
    }

    #[test]
    fn the_first_place_decides_as_it_does_when_loading() {
        let temp = tempfile::tempdir().unwrap();
        let (a, b) = (temp.path().join("a"), temp.path().join("b"));
        let old = library(&a, "libnvrtc.so.12", (12, 2));
        let good = library(&b, "libnvrtc.so.13", (13, 1));
        let known = [good.clone(), old];
        let plan = plan(&[a.clone(), temp.path().join("missing"), b]);
        assert_eq!(plan.identify(&known), Some("nvrtc 13.1"), "12.2 is too old");
        assert_eq!(plan.clone().at_most(12).identify(&known), None);
        // one that stands before it and is not known might be the one
        library(&a, "libnvrtc.so.14", (14, 0));
        assert_eq!(plan.identify(&known), None);
    }
}
