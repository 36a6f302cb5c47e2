//! How a session is told its specialisation strategy.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bespoke_policy::{Limits, PRESETS, Policy, PolicyError, Signature};

/// Makes a policy, given the shape to tune for and what a session may keep.
pub type Factory = dyn Fn(Option<Signature>, Limits) -> Box<dyn Policy> + Send + Sync;

/// Which strategy decides what is specialised and when.
#[derive(Clone)]
pub enum Strategy {
    /// One of [`PRESETS`] by its name.
    Named(String),
    /// The text of a strategy file (see [`bespoke_policy::file`](mod@bespoke_policy::file)) and its name.
    File {
        /// Name in messages and reports.
        name: String,
        /// TOML.
        text: String,
    },
    /// A policy of the caller's own.
    Own(Arc<Factory>),
}

impl Strategy {
    /// A strategy as a command takes it: the name of a preset, or of a file that ends in `.toml`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::File`] if the file cannot be read. Whether a name or a text makes sense is found out when a
    /// session is loaded.
    pub fn named_or_file(word: &str) -> Result<Strategy, PolicyError> {
        let is_file = Path::new(word).extension().is_some_and(|e| e == "toml");
        if !is_file || PRESETS.iter().any(|p| p.name == word) {
            return Ok(word.into());
        }
        match std::fs::read_to_string(word) {
            Ok(text) => Ok(Strategy::File {
                name: word.to_owned(),
                text,
            }),
            Err(e) => Err(PolicyError::File {
                name: word.to_owned(),
                reason: format!("the file cannot be read: {e}"),
            }),
        }
    }

    pub(crate) fn policy(
        &self,
        opt: Option<Signature>,
        limits: Limits,
    ) -> Result<Box<dyn Policy>, PolicyError> {
        match self {
            Strategy::Named(name) => bespoke_policy::preset(name, opt, limits),
            Strategy::File { name, text } => bespoke_policy::file::parse(text, name, opt, limits),
            Strategy::Own(make) => Ok(make(opt, limits)),
        }
    }
}

impl Default for Strategy {
    fn default() -> Self {
        "lazy".into()
    }
}

impl From<&str> for Strategy {
    fn from(name: &str) -> Self {
        Strategy::Named(name.to_owned())
    }
}

impl From<String> for Strategy {
    fn from(name: String) -> Self {
        Strategy::Named(name)
    }
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Strategy::Named(name) | Strategy::File { name, .. } => name,
            Strategy::Own(_) => "the caller's own",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_preset_or_a_file() {
        assert_eq!(
            format!("{:?}", Strategy::named_or_file("eager").unwrap()),
            "eager"
        );
        let missing = Strategy::named_or_file("no such.toml")
            .unwrap_err()
            .to_string();
        assert!(missing.contains("no such.toml"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, "classes = \"ranges\"").unwrap();
        let strategy = Strategy::named_or_file(&file.display().to_string()).unwrap();
        let policy = strategy.policy(None, Limits::default()).unwrap();
        let class = policy.class_of(&Signature::new(&[6]));
        assert_eq!(class.to_string(), "4..7");
    }

    #[test]
    fn a_policy_of_the_callers_own_is_asked() {
        let strategy = Strategy::Own(Arc::new(|_, limits| {
            let axes = bespoke_policy::Axes {
                limits,
                map: bespoke_policy::ClassMap::Ranges { ratio: 8 },
                trigger: bespoke_policy::Trigger::Sightings(2),
                between: false,
                second_tier: None,
                refine: None,
                blocking: false,
                queue: bespoke_policy::Queue::FirstCome,
                stale_us: None,
                priority: 0,
            };
            bespoke_policy::from_axes("eights", axes)
        }));
        let policy = strategy.policy(None, Limits::default()).unwrap();
        assert_eq!(policy.name(), "eights");
    }
}
