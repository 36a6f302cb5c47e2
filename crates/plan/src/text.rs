//! The textual form of a plan, for people and golden tests: a line a step.
//!
//! A step that does not simply come after the one on the line before says what it comes after.

use std::fmt;

use bespoke_device::SlotKind;

use crate::{Arg, Place, Plan, Step};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}", self.name)?;
        for step in &self.setup {
            write!(f, "  setup ")?;
            self.show(f, step)?;
            writeln!(f)?;
        }
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.steps.len()];
        for edge in &self.edges {
            before[edge.to].push(edge.from);
        }
        for (i, step) in self.steps.iter().enumerate() {
            write!(f, "  ")?;
            self.show(f, step)?;
            if i > 0 && before[i] != [i - 1] {
                let names: Vec<&str> = before[i].iter().map(|&s| &*self.steps[s].name).collect();
                match &names[..] {
                    [] => write!(f, ", at once")?,
                    names => write!(f, ", after {}", names.join(" and "))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Plan {
    fn buffer_text(&self, id: crate::BufferId) -> String {
        let b = &self.buffers[id.0 as usize];
        match b.place {
            Place::Input(i) => format!("in{i}"),
            Place::Output(i) => format!("out{i}"),
            Place::Constant(_) | Place::Persistent => format!("{}:{}", b.name, b.dtype),
            Place::Arena { .. } => format!("%{}", id.0),
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
        let (mut reads, mut writes, mut extents) = (Vec::new(), Vec::new(), Vec::new());
        for (param, arg) in step.template.params().iter().zip(&step.args) {
            match arg {
                Arg::Read(b) => reads.push(self.buffer_text(*b)),
                Arg::Write(b) => writes.push(self.buffer_text(*b)),
                // what it is of is among the operands
                Arg::Map(_) => {}
                Arg::Int(e) => {
                    if param.kind == SlotKind::Int && !param.wide {
                        let value = &self.exprs[e.0 as usize];
                        extents.push(format!("{}={}", param.name, value.display(&self.symbols)));
                    }
                }
            }
        }
        write!(
            f,
            "{} = {}({}) {} {}{}  ; {}",
            writes.join(", "),
            step.template.name(),
            reads.join(", "),
            step.template.describe(),
            extents.join(" "),
            if step.is_copy { " copy" } else { "" },
            step.name
        )
    }
}
