//! Where the cache lies and what it may do.
//!
//! The folder is, first that is given: the one named in [`CacheConfig::dir`]; `BESPOKE_CACHE_DIR`;
//! `$XDG_CACHE_HOME/bespoke`; `~/.cache/bespoke`. Environment values are passed in by a function so that the
//! rule can be tested and the library reads no global state behind its caller's back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::os::Distrust;

/// Default limit on the sum of entry sizes: 10 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 10 << 30;
/// Default limit on the number of entries.
pub const DEFAULT_MAX_ENTRIES: u64 = 100_000;

/// What the cache may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Read and write.
    #[default]
    Rw,
    /// Read only: nothing is created, touched, moved or deleted.
    Ro,
    /// Neither: every lookup misses.
    Off,
}

impl Mode {
    /// The word used on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Rw => "rw",
            Mode::Ro => "ro",
            Mode::Off => "off",
        }
    }
}

impl FromStr for Mode {
    type Err = CacheError;

    fn from_str(text: &str) -> Result<Self, CacheError> {
        [Mode::Rw, Mode::Ro, Mode::Off]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| CacheError::Mode(text.to_owned()))
    }
}

/// How to open a [`crate::Cache`].
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// The folder; `None` asks the environment (see the module's text).
    pub dir: Option<PathBuf>,
    /// What the cache may do.
    pub mode: Mode,
    /// Limit on the sum of entry sizes, bytes.
    pub max_bytes: u64,
    /// Limit on the number of entries.
    pub max_entries: u64,
    /// Further folders of the same layout, read after the main one and never written; `None` asks the environment for
    /// `BESPOKE_CACHE_LAYERS`, a list as `PATH` is one. They are accepted if they belong to this user or to root and
    /// nobody else may write them.
    pub ro_layers: Option<Vec<PathBuf>>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            dir: None,
            mode: Mode::Rw,
            max_bytes: DEFAULT_MAX_BYTES,
            max_entries: DEFAULT_MAX_ENTRIES,
            ro_layers: None,
        }
    }
}

impl CacheConfig {
    /// The default configuration in a given folder.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        CacheConfig {
            dir: Some(dir.into()),
            ..CacheConfig::default()
        }
    }

    /// The folder that this configuration means, with the environment read through `env`.
    ///
    /// # Errors
    ///
    /// [`CacheError::NoFolder`] when neither a folder nor a home is known. Relative values of `XDG_CACHE_HOME` are
    /// ignored, as the XDG base directory specification asks.
    pub fn resolve_dir(
        &self,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<PathBuf, CacheError> {
        let given = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.dir
            .clone()
            .or_else(|| given("BESPOKE_CACHE_DIR"))
            .or_else(|| {
                given("XDG_CACHE_HOME")
                    .filter(|path| path.is_absolute())
                    .map(|path| path.join("bespoke"))
            })
            .or_else(|| {
                given("HOME")
                    .filter(|path| path.is_absolute())
                    .map(|path| path.join(".cache/bespoke"))
            })
            .or_else(|| given("LOCALAPPDATA").map(|path| path.join("bespoke").join("cache")))
            .ok_or(CacheError::NoFolder)
    }

    /// The read-only layers that this configuration means, in the order in which they are asked.
    pub fn resolve_layers(&self, env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        if let Some(layers) = &self.ro_layers {
            return layers.clone();
        }
        let list = env("BESPOKE_CACHE_LAYERS").unwrap_or_default();
        std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect()
    }
}

/// Why a read-only layer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerRefusal {
    /// It is not believed.
    #[error("the cache layer `{}` is ignored: {distrust}", path.display())]
    Distrusted {
        /// The folder.
        path: PathBuf,
        /// Why.
        distrust: Distrust,
    },
    /// It cannot be looked at.
    #[error("the cache layer `{}` is ignored: {error}; name a folder that `bespoke prebuild` or a cache has filled", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
}

impl LayerRefusal {
    /// The folder that was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            LayerRefusal::Distrusted { path, .. } | LayerRefusal::Unusable { path, .. } => path,
        }
    }

    pub(crate) fn of(path: &Path, reason: OffReason) -> LayerRefusal {
        let path = path.to_owned();
        match reason {
            OffReason::Distrusted(distrust) => LayerRefusal::Distrusted { path, distrust },
            OffReason::Unusable { error, .. } => LayerRefusal::Unusable { path, error },
            other => LayerRefusal::Unusable {
                path,
                error: other.to_string(),
            },
        }
    }
}

/// Why the cache does less than it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffReason {
    /// [`Mode::Off`] was asked for.
    #[error("the cache was switched off")]
    Asked,
    /// No folder is known.
    #[error("no cache folder is known: set BESPOKE_CACHE_DIR or HOME")]
    NoFolder,
    /// The process has more rights than its caller.
    #[error("the process runs with borrowed rights (set-uid or the like), so no cache is used")]
    Elevated,
    /// The folder is not believed.
    #[error("the cache folder is ignored: {0}")]
    Distrusted(Distrust),
    /// The folder cannot be made or looked at.
    #[error("the cache folder `{}` cannot be used: {error}; name another one with BESPOKE_CACHE_DIR", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
    /// A write failed in a way that later writes will repeat: the cache is read-only from then on.
    #[error("writing `{}` failed ({error}): the cache is read-only for the rest of this process", path.display())]
    WriteFailed {
        /// What was being written.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
}

/// Errors of commands about the cache; runs never see them.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No folder is known.
    #[error("no cache folder is known: set BESPOKE_CACHE_DIR or HOME, or name a folder")]
    NoFolder,
    /// Not a mode.
    #[error("`{0}` is not a cache mode: use rw, ro or off")]
    Mode(String),
    /// Not the beginning of a key.
    #[error(
        "`{0}` is not the beginning of a key: write hexadecimal digits as `bespoke cache ls` prints them"
    )]
    NotAKey(String),
    /// No entry has such a key.
    #[error("no entry has a key that begins with `{0}`")]
    NoEntry(String),
    /// Several entries have such a key.
    #[error("{count} entries have a key that begins with `{prefix}`: {}", some.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many there are.
        count: usize,
        /// The first few, shortened.
        some: Vec<String>,
    },
    /// An entry is there and not usable.
    #[error("the entry {key} cannot be read: {reason}")]
    Entry {
        /// Its key, shortened.
        key: String,
        /// What is wrong with it.
        reason: crate::stats::MissReason,
    },
    /// The cache is off.
    #[error("{0}")]
    Off(OffReason),
    /// The cache may not be changed.
    #[error("the cache is read-only{}", .0.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    ReadOnly(Option<OffReason>),
    /// A folder could not be read or changed.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl CacheError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CacheError {
        let path = path.to_owned();
        move |source| CacheError::Io { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(explicit: Option<&str>, env: &[(&str, &str)]) -> Option<String> {
        let config = CacheConfig {
            dir: explicit.map(PathBuf::from),
            ..CacheConfig::default()
        };
        config
            .resolve_dir(|name| {
                env.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            })
            .ok()
            .map(|path| path.display().to_string())
    }

    #[test]
    fn the_folder_is_chosen_in_order() {
        let env = [
            ("BESPOKE_CACHE_DIR", "/b"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(resolve(Some("/e"), &env).as_deref(), Some("/e"));
        assert_eq!(resolve(None, &env).as_deref(), Some("/b"));
        assert_eq!(resolve(None, &env[1..]).as_deref(), Some("/x/bespoke"));
        assert_eq!(
            resolve(None, &env[2..]).as_deref(),
            Some("/h/.cache/bespoke")
        );
        assert_eq!(resolve(None, &[]), None);
    }

    #[test]
    fn empty_and_relative_values_are_ignored() {
        let env = [
            ("BESPOKE_CACHE_DIR", ""),
            ("XDG_CACHE_HOME", "rel"),
            ("HOME", "/h"),
        ];
        assert_eq!(resolve(None, &env).as_deref(), Some("/h/.cache/bespoke"));
    }

    #[test]
    fn layers_come_from_the_caller_or_else_from_the_environment() {
        let list = std::env::join_paths(["/a", "", "/b c"]).unwrap();
        let env = |name: &str| (name == "BESPOKE_CACHE_LAYERS").then(|| list.clone());
        let asked = CacheConfig::default().resolve_layers(env);
        assert_eq!(asked, [PathBuf::from("/a"), PathBuf::from("/b c")]);
        let config = CacheConfig {
            ro_layers: Some(vec!["/x".into()]),
            ..CacheConfig::default()
        };
        assert_eq!(config.resolve_layers(env), [PathBuf::from("/x")]);
        let none = CacheConfig {
            ro_layers: Some(Vec::new()),
            ..CacheConfig::default()
        };
        assert!(none.resolve_layers(env).is_empty());
        assert!(CacheConfig::default().resolve_layers(|_| None).is_empty());
    }

    #[test]
    fn modes_are_read_by_their_names() {
        for mode in [Mode::Rw, Mode::Ro, Mode::Off] {
            assert_eq!(mode.name().parse::<Mode>().unwrap(), mode);
        }
        assert!(
            "read"
                .parse::<Mode>()
                .unwrap_err()
                .to_string()
                .contains("rw, ro or off")
        );
    }
}
