//! The textual form of a flow: what passes between segments and what is decided where, then each segment as a graph.

use std::fmt;

use super::{Block, Flow, Item, TensorId, Trip};

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outline())?;
        for (number, segment) in self.segments.iter().enumerate() {
            write!(f, "segment {number}: {}", segment.graph)?;
        }
        Ok(())
    }
}

impl Flow {
    /// What passes between segments and what is decided where, without the segments' nodes.
    pub fn outline(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(move |f| {
            writeln!(f, "flow {}({}) {{", self.name, self.typed(&self.inputs))?;
            self.write_block(f, &self.block, 1)?;
            let outputs: Vec<TensorId> = self.outputs.iter().map(|o| o.1).collect();
            writeln!(f, "  return {}", self.names(&outputs))?;
            writeln!(f, "}}")
        })
    }

    fn typed(&self, ids: &[TensorId]) -> String {
        let parts = ids.iter().map(|&id| {
            let tensor = self.tensor(id);
            format!("{}: {}", tensor.name, tensor.ty.display(&self.symbols))
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    fn names(&self, ids: &[TensorId]) -> String {
        let parts = ids.iter().map(|&id| self.tensor(id).name.clone());
        parts.collect::<Vec<_>>().join(", ")
    }

    /// One line for each item, bodies indented.
    pub(super) fn write_block(
        &self,
        f: &mut fmt::Formatter<'_>,
        block: &Block,
        depth: usize,
    ) -> fmt::Result {
        let pad = "  ".repeat(depth);
        for item in &block.items {
            match item {
                Item::Segment(at) => {
                    let segment = &self.segments[*at];
                    let inputs = self.names(&segment.inputs);
                    let outputs = self.typed(&segment.outputs);
                    writeln!(f, "{pad}segment {at} ({inputs}) -> {outputs}")?;
                }
                Item::Read(read) => {
                    let symbols = read.symbols.iter().map(|&id| {
                        let symbol = self.symbols.get(id);
                        symbol.map_or_else(String::new, |s| s.name.clone())
                    });
                    let symbols = symbols.collect::<Vec<_>>().join(", ");
                    let what = if read.shape_of.is_some() {
                        "read shape"
                    } else {
                        "read"
                    };
                    let name = &self.tensor(read.tensor).name;
                    writeln!(f, "{pad}{what} {name} -> {symbols}  ; {}", read.node)?;
                }
                Item::If(node) => {
                    writeln!(
                        f,
                        "{pad}if {}  ; {}",
                        self.tensor(node.condition).name,
                        node.node
                    )?;
                    for (word, branch) in ["then", "else"].iter().zip(&node.branches) {
                        writeln!(f, "{pad}{word}")?;
                        self.write_block(f, &branch.block, depth + 1)?;
                        writeln!(f, "{pad}  give {}", self.names(&branch.results))?;
                    }
                    writeln!(f, "{pad}end -> {}", self.typed(&node.results))?;
                }
                Item::Loop(node) => {
                    let trip = match &node.trip {
                        Trip::Unbounded => "forever".to_owned(),
                        Trip::Extent(e) => format!("{} times", e.display(&self.symbols)),
                        Trip::Tensor(id) => format!("`{}` times", self.tensor(*id).name),
                    };
                    write!(f, "{pad}loop {trip}")?;
                    if let Some(id) = node.condition {
                        write!(f, " if {}", self.tensor(id).name)?;
                    }
                    writeln!(f, "  ; {}", node.node)?;
                    for carried in &node.carried {
                        let initial = &self.tensor(carried.initial).name;
                        let inner = self.typed(&[carried.inner]);
                        let next = &self.tensor(carried.next).name;
                        writeln!(f, "{pad}  carry {inner} = {initial}, then {next}")?;
                    }
                    self.write_block(f, &node.block, depth + 1)?;
                    for stacked in &node.stacked {
                        writeln!(f, "{pad}  stack {}", self.tensor(stacked.element).name)?;
                    }
                    if let Some(id) = node.next_condition {
                        writeln!(f, "{pad}  while {}", self.tensor(id).name)?;
                    }
                    let results: Vec<TensorId> = item.makes(&self.segments);
                    writeln!(f, "{pad}end -> {}", self.typed(&results))?;
                }
            }
        }
        Ok(())
    }
}
