//! Which versions of the standard are read.
//!
//! A model states the version of the file format (IR version) and, for each operator domain, the version of the
//! operator set its nodes were written for. IR versions 3 to 14 are read, and opsets 6 to 28 of the default domain
//! `ai.onnx`.
//! Imports of other domains are only a problem if a node uses one, and then the node is reported.

use crate::error::OnnxError;
use crate::proto::OperatorSetIdProto;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// IR versions that are read.
pub const IR_VERSIONS: RangeInclusive<i64> = 3..=14;

/// Versions of the default operator set that are read.
pub const OPSETS: RangeInclusive<i64> = 6..=28;

/// The operator sets that a model or function imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opsets(BTreeMap<String, i64>);

impl Opsets {
    /// Collects the imports; two versions of one domain are an error. `owner` is the graph or function, for messages.
    pub fn new(imports: &[OperatorSetIdProto], owner: &str) -> Result<Self, OnnxError> {
        let mut map = BTreeMap::new();
        for import in imports {
            let domain = normalise(import.domain());
            let version = import.version();
            if let Some(other) = map.insert(domain.to_owned(), version)
                && other != version
            {
                return Err(OnnxError::Graph {
                    graph: owner.to_owned(),
                    reason: format!(
                        "it imports two versions of the operator domain '{}': {other} and {version}",
                        printed(domain)
                    ),
                });
            }
        }
        if let Some(version) = map.get("") {
            check_default(*version)?;
        }
        Ok(Opsets(map))
    }

    /// The imported version of a domain in any of its spellings.
    pub fn version(&self, domain: &str) -> Option<i64> {
        self.0.get(normalise(domain)).copied()
    }

    /// All imports: domain (empty for the default one) and version, by domain.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0
            .iter()
            .map(|(domain, version)| (domain.as_str(), *version))
    }
}

/// `ai.onnx` is another spelling of the default domain, the empty string.
pub fn normalise(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn printed(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// Whether the IR version is one that is read.
pub fn check_ir(version: i64) -> Result<(), OnnxError> {
    if IR_VERSIONS.contains(&version) {
        return Ok(());
    }
    Err(OnnxError::Version {
        what: format!("IR version {version}"),
        reason: format!(
            "versions {} to {} are read; convert the model with onnx.version_converter or export it again",
            IR_VERSIONS.start(),
            IR_VERSIONS.end()
        ),
    })
}

fn check_default(version: i64) -> Result<(), OnnxError> {
    if OPSETS.contains(&version) {
        return Ok(());
    }
    Err(OnnxError::Version {
        what: format!("opset {version} of the domain ai.onnx"),
        reason: format!(
            "opsets {} to {} are read; convert the model with onnx.version_converter or export it again",
            OPSETS.start(),
            OPSETS.end()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(domain: &str, version: i64) -> OperatorSetIdProto {
        OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        }
    }

    #[test]
    fn foreign_domains_are_free_and_the_default_one_has_two_names() {
        let opsets =
            Opsets::new(&[import("ai.onnx", 17), import("com.example", 999)], "g").unwrap();
        assert_eq!(opsets.version(""), Some(17));
        assert_eq!(opsets.version("com.example"), Some(999));
        assert_eq!(opsets.version("absent"), None);
        assert!(Opsets::new(&[import("", 17), import("ai.onnx", 17)], "g").is_ok());
    }

    #[test]
    fn versions_outside_the_range_are_refused_with_the_range() {
        for version in [-1, 0, 5, 29, i64::MAX] {
            let error = Opsets::new(&[import("", version)], "g")
                .unwrap_err()
                .to_string();
            assert!(error.contains("opsets 6 to 28 are read"), "{error}");
        }
        let error = Opsets::new(&[import("", 17), import("ai.onnx", 18)], "g")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("two versions of the operator domain 'ai.onnx': 17 and 18"),
            "{error}"
        );
        assert!(check_ir(3).is_ok() && check_ir(14).is_ok());
        assert!(check_ir(2).is_err() && check_ir(15).is_err());
    }
}
