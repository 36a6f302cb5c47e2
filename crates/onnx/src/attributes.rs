//! Typed access to a node's attributes.
//!
//! Asking for an attribute of the wrong type is an error that names it. Every name that was asked for is remembered,
//! so that an attribute that no importer knows is reported and cannot silently change what the node means.

use crate::proto::attribute_proto::AttributeType;
use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The attributes of one node.
pub(crate) struct Attributes<'a> {
    node: &'a NodeProto,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(node: &'a NodeProto) -> Self {
        Attributes {
            node,
            asked: RefCell::new(BTreeSet::new()),
        }
    }

    fn find(
        &self,
        name: &'static str,
        ty: AttributeType,
    ) -> Result<Option<&'a AttributeProto>, String> {
        self.asked.borrow_mut().insert(name);
        let mut found = self
            .node
            .attribute
            .iter()
            .filter(|attribute| attribute.name() == name);
        let Some(first) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(format!("attribute '{name}' is given twice"));
        }
        if !first.ref_attr_name().is_empty() {
            return Err(format!(
                "attribute '{name}' refers to '{}' of a function, but the node is in none",
                first.ref_attr_name()
            ));
        }
        // Some writers leave the type out; then the value in the right field decides.
        if first.r#type() != ty && first.r#type() != AttributeType::Undefined {
            return Err(format!(
                "attribute '{name}' is of type {}, but must be {}",
                first.r#type().as_str_name(),
                ty.as_str_name()
            ));
        }
        Ok(Some(first))
    }

    /// Marks attributes as known although their value does not matter.
    pub(crate) fn ignore(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend(names);
    }

    /// Whether the attribute is given at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.node
            .attribute
            .iter()
            .any(|attribute| attribute.name() == name)
    }

    /// The attributes that nobody asked for.
    pub(crate) fn unknown(&self) -> Vec<&'a str> {
        let asked = self.asked.borrow();
        self.node
            .attribute
            .iter()
            .map(|attribute| attribute.name())
            .filter(|name| !asked.contains(name))
            .collect()
    }

    pub(crate) fn int(&self, name: &'static str) -> Result<Option<i64>, String> {
        Ok(self
            .find(name, AttributeType::Int)?
            .map(|attribute| attribute.i()))
    }

    /// An integer that must be 0 or 1.
    pub(crate) fn flag(&self, name: &'static str, default: bool) -> Result<bool, String> {
        match self.int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(format!("attribute '{name}' must be 0 or 1, but is {other}")),
        }
    }

    pub(crate) fn float(&self, name: &'static str) -> Result<Option<f32>, String> {
        Ok(self
            .find(name, AttributeType::Float)?
            .map(|attribute| attribute.f()))
    }

    pub(crate) fn ints(&self, name: &'static str) -> Result<Option<&'a [i64]>, String> {
        Ok(self
            .find(name, AttributeType::Ints)?
            .map(|attribute| attribute.ints.as_slice()))
    }

    pub(crate) fn floats(&self, name: &'static str) -> Result<Option<&'a [f32]>, String> {
        Ok(self
            .find(name, AttributeType::Floats)?
            .map(|attribute| attribute.floats.as_slice()))
    }

    pub(crate) fn string(&self, name: &'static str) -> Result<Option<&'a str>, String> {
        match self.find(name, AttributeType::String)? {
            None => Ok(None),
            Some(attribute) => std::str::from_utf8(attribute.s())
                .map(Some)
                .map_err(|_| format!("attribute '{name}' is not valid UTF-8")),
        }
    }

    pub(crate) fn tensor(&self, name: &'static str) -> Result<Option<&'a TensorProto>, String> {
        match self.find(name, AttributeType::Tensor)? {
            None => Ok(None),
            Some(attribute) => match attribute.t.as_deref() {
                Some(tensor) => Ok(Some(tensor)),
                None => Err(format!("attribute '{name}' holds no tensor")),
            },
        }
    }

    pub(crate) fn graph(&self, name: &'static str) -> Result<Option<&'a GraphProto>, String> {
        match self.find(name, AttributeType::Graph)? {
            None => Ok(None),
            Some(attribute) => match attribute.g.as_deref() {
                Some(graph) => Ok(Some(graph)),
                None => Err(format!("attribute '{name}' holds no graph")),
            },
        }
    }

    /// A string that must be one of the table's; `default` if it is not given.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &'static str,
        default: T,
        table: &[(&str, T)],
    ) -> Result<T, String> {
        let Some(text) = self.string(name)? else {
            return Ok(default);
        };
        match table.iter().find(|row| row.0 == text) {
            Some(row) => Ok(row.1),
            None => {
                let names: Vec<&str> = table.iter().map(|row| row.0).collect();
                Err(format!(
                    "attribute '{name}' is '{text}', but must be one of {}",
                    names.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, ty: AttributeType) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            r#type: Some(ty as i32),
            ..Default::default()
        }
    }

    #[test]
    fn types_are_checked_and_what_is_not_asked_for_is_listed() {
        let node = NodeProto {
            attribute: vec![
                AttributeProto {
                    i: Some(3),
                    ..attribute("axis", AttributeType::Int)
                },
                AttributeProto {
                    s: Some(b"linear".to_vec()),
                    ..attribute("mode", AttributeType::String)
                },
                AttributeProto {
                    i: Some(2),
                    ..attribute("odd", AttributeType::Undefined)
                },
            ],
            ..Default::default()
        };
        let attributes = Attributes::new(&node);
        assert_eq!(attributes.int("axis"), Ok(Some(3)));
        assert_eq!(attributes.int("absent"), Ok(None));
        assert_eq!(attributes.int("odd"), Ok(Some(2)));
        assert_eq!(attributes.unknown(), ["mode"]);
        assert_eq!(
            attributes.choice("mode", 0, &[("nearest", 1), ("linear", 2)]),
            Ok(2)
        );
        assert_eq!(
            attributes.choice("mode", 0, &[("nearest", 1)]).unwrap_err(),
            "attribute 'mode' is 'linear', but must be one of nearest"
        );
        assert!(attributes.unknown().is_empty());
        assert_eq!(
            attributes.floats("axis").unwrap_err(),
            "attribute 'axis' is of type INT, but must be FLOATS"
        );
        assert_eq!(
            attributes.flag("axis", false).unwrap_err(),
            "attribute 'axis' must be 0 or 1, but is 3"
        );
    }
}
