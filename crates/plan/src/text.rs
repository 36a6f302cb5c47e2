//! The textual form of a plan, for people and golden tests: a line a step.

use std::fmt;

use bespoke_device::SlotKind;

use crate::{Arg, Place, Plan, Step};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}", self.name)?;
        for step in &self.setup {
            write!(f, "  setup ")?;
            self.show(f, step)?;
        }
        for step in &self.steps {
            write!(f, "  ")?;
            self.show(f, step)?;
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
                Arg::Int(e) => {
                    if param.kind == SlotKind::Int && !param.wide {
                        let value = &self.exprs[e.0 as usize];
                        extents.push(format!("{}={}", param.name, value.display(&self.symbols)));
                    }
                }
            }
        }
        writeln!(
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
