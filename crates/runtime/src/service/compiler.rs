//! Which NVRTC a service has: loaded when something must be compiled, and known without that where it can be.
//!
//! Every look into the cache has to know which build of the compiler there is, and a process whose kernels are all there
//! needs no more of it than that. What a loaded library is known by is therefore kept in the cache, in one document about
//! the machine; see [`bespoke_jit::identity`]. Without the document, or if the library changed, NVRTC is loaded to ask it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bespoke_cache::Cache;
use bespoke_jit::{JitError, Known, Nvrtc, SearchPlan};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Version of the document.
const VERSION: u64 = 1;
/// Libraries that are remembered; of more, only the last one is kept.
const KEPT: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Compiler {
    search: SearchPlan,
    loaded: OnceLock<Result<Arc<Nvrtc>, JitError>>,
    build: OnceLock<Option<String>>,
}

/// [`Known`] as the document has it.
#[derive(Serialize, Deserialize)]
struct Library {
    loader: String,
    file: String,
    len: u64,
    modified: u64,
    release: (u32, u32),
    build: String,
}

impl Compiler {
    pub(super) fn new(search: SearchPlan) -> Compiler {
        Compiler {
            search,
            loaded: OnceLock::new(),
            build: OnceLock::new(),
        }
    }

    /// NVRTC, loaded now if it was not.
    pub(super) fn nvrtc(&self, cache: &Cache) -> &Result<Arc<Nvrtc>, JitError> {
        self.loaded.get_or_init(|| {
            let loaded = Nvrtc::load(&self.search);
            if let Some(known) = loaded.as_ref().ok().and_then(|n| n.known()) {
                remember(cache, &known);
            }
            loaded
        })
    }

    /// The build that there is; `None` if there is none. Loads NVRTC only if that cannot be known otherwise.
    pub(super) fn build(&self, cache: &Cache) -> Option<&str> {
        if let Some(loaded) = self.loaded.get() {
            return loaded.as_ref().ok().map(|n| n.build());
        }
        let find = || {
            let known = known(cache);
            match self.search.identify(&known) {
                Some(build) => Some(build.to_owned()),
                None => self
                    .nvrtc(cache)
                    .as_ref()
                    .ok()
                    .map(|n| n.build().to_owned()),
            }
        };
        self.build.get_or_init(find).as_deref()
    }

    /// Whether NVRTC was loaded, or looked for in vain.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.loaded.get().is_some()
    }
}

/// The name of the document.
fn document() -> [u8; 32] {
    blake3::derive_key("bespoke 1 compilers of this machine", b"")
}

/// The libraries of a document of this version, by what was asked for.
fn libraries(document: &Value) -> Option<&serde_json::Map<String, Value>> {
    if document.get("v")?.as_u64()? != VERSION {
        return None;
    }
    document.get("libraries")?.as_object()
}

/// What is remembered of libraries that were loaded once.
fn known(cache: &Cache) -> Vec<Known> {
    let document = cache.machine().read(&document());
    let entries = document.as_ref().and_then(libraries).into_iter().flatten();
    entries
        .filter_map(|(asked, value)| {
            let library: Library = serde_json::from_value(value.clone()).ok()?;
            Some(Known {
                asked: asked.clone(),
                loader: library.loader,
                file: PathBuf::from(library.file),
                len: library.len,
                modified: library.modified,
                release: library.release,
                build: library.build,
            })
        })
        .collect()
}

/// Remembers a library. Where that is not possible (a read-only cache, a path that is no text) it is loaded the next time
/// as well, and nothing else changes.
fn remember(cache: &Cache, library: &Known) {
    let Some(file) = library.file.to_str() else {
        return;
    };
    if known(cache).contains(library) {
        return;
    }
    let entry = json!(Library {
        loader: library.loader.clone(),
        file: file.to_owned(),
        len: library.len,
        modified: library.modified,
        release: library.release,
        build: library.build.clone(),
    });
    let _ = cache.machine().update(&document(), |old| {
        let mut all = old
            .as_ref()
            .and_then(libraries)
            .cloned()
            .unwrap_or_default();
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(library.asked.clone(), entry);
        json!({ "v": VERSION, "libraries": all })
    });
}

#[cfg(all(test, not(windows)))]
mod tests {
    use super::*;
    use bespoke_cache::CacheConfig;

    #[test]
    fn a_library_that_is_known_is_not_loaded() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(CacheConfig::at(temp.path().join("cache")));
        let folder = temp.path().join("lib");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("libnvrtc.so.13");
        std::fs::write(&file, b"nothing that could be loaded").unwrap();
        let about = file.metadata().unwrap();
        let modified = about.modified().unwrap();
        let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        let library = Known {
            asked: file.display().to_string(),
            loader: String::new(),
            file: file.clone(),
            len: about.len(),
            modified: modified.as_nanos() as u64,
            release: (13, 0),
            build: "nvrtc 13.0 (of the test)".into(),
        };
        let search = SearchPlan::new(std::slice::from_ref(&folder), |_| None);
        // only the folder: what this machine has is no matter of this test
        let search = SearchPlan {
            places: search.places.into_iter().take(1).collect(),
            ..search
        };

        let fresh = Compiler::new(search.clone());
        assert_eq!(fresh.build(&cache), None, "it cannot be loaded");
        assert!(fresh.is_settled());

        remember(&cache, &library);
        assert_eq!(known(&cache), std::slice::from_ref(&library));
        let next = Compiler::new(search.clone());
        assert_eq!(next.build(&cache), Some("nvrtc 13.0 (of the test)"));
        assert!(!next.is_settled(), "nothing was loaded");

        std::fs::write(&file, b"another release").unwrap();
        let updated = Compiler::new(search);
        assert_eq!(updated.build(&cache), None);
        assert!(updated.is_settled(), "a changed file is loaded");
    }
}
