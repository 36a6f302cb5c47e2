//! The textual form of a graph, for people and golden tests.
//!
//! ```text
//! graph demo(x: f32[N,3,48,W]) {
//!   %0 = conv(x, w: f32[8,3,3,3]) strides=[2,2] pads=[1,1,1,1] : f32[N,8,24,ceil(W/2)]  ; stem
//!   return %0
//! }
//! ```
//!
//! Values are numbered in topological order, so the text does not depend on how the graph came about. Constants are
//! shown by type; short ones by value.

use std::collections::HashMap;
use std::fmt;

use crate::dtype::DType;
use crate::graph::{Graph, ValueId};
use crate::types::Constant;

/// Up to this many elements a constant is printed by value.
const SHORT: usize = 4;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = self.topological_order();
        let mut names: HashMap<ValueId, String> = HashMap::new();
        for &v in self.inputs() {
            names.insert(v, self.value(v).name.clone());
        }
        let mut next = 0;
        for &n in &order {
            for &v in self.node(n).outputs() {
                names.insert(v, format!("%{next}"));
                next += 1;
            }
        }
        let show = |v: ValueId| -> String {
            if let Some(name) = names.get(&v) {
                return name.clone();
            }
            match self.constant(v) {
                Some(c) if c.elements() <= SHORT => short_constant(c),
                _ => format!(
                    "{}: {}",
                    self.value(v).name,
                    self.ty(v).display(&self.symbols)
                ),
            }
        };
        write!(f, "graph {}(", self.name)?;
        for (i, &v) in self.inputs().iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            let value = self.value(v);
            write!(
                f,
                "{comma}{}: {}",
                value.name,
                value.ty.display(&self.symbols)
            )?;
        }
        writeln!(f, ") {{")?;
        for guard in &self.guards {
            writeln!(f, "  require {}", guard.display(&self.symbols))?;
        }
        for &n in &order {
            let node = self.node(n);
            let results: Vec<&str> = node.outputs().iter().map(|v| names[v].as_str()).collect();
            let operands: Vec<String> = node.inputs().iter().map(|&v| show(v)).collect();
            let types: Vec<String> = node
                .outputs()
                .iter()
                .map(|&v| self.ty(v).display(&self.symbols).to_string())
                .collect();
            let attributes = node.op.attributes(&self.symbols);
            let space = if attributes.is_empty() { "" } else { " " };
            writeln!(
                f,
                "  {} = {}({}){space}{attributes} : {}  ; {}",
                results.join(", "),
                node.op.name(),
                operands.join(", "),
                types.join(", "),
                node.name
            )?;
        }
        let results: Vec<String> = self.outputs().iter().map(|&v| show(v)).collect();
        writeln!(f, "  return {}", results.join(", "))?;
        f.write_str("}\n")
    }
}

fn short_constant(c: &Constant) -> String {
    let mut parts = Vec::new();
    for i in 0..c.elements() {
        let Some(size) = c.dtype().size() else {
            return format!("{c:?}");
        };
        let bytes = &c.data()[i * size..(i + 1) * size];
        parts.push(show_element(c.dtype(), bytes));
    }
    let text = parts.join(",");
    if c.dims().is_empty() {
        format!("{text}:{}", c.dtype())
    } else {
        format!("[{text}]:{}", c.dtype())
    }
}

fn show_element(dtype: DType, bytes: &[u8]) -> String {
    let mut wide = [0u8; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let raw = u64::from_le_bytes(wide);
    match dtype {
        DType::F32 => format!("{:?}", f32::from_bits(raw as u32)),
        DType::F64 => format!("{:?}", f64::from_bits(raw)),
        DType::F16 => format!("{:?}", half::f16::from_bits(raw as u16).to_f32()),
        DType::BF16 => format!("{:?}", half::bf16::from_bits(raw as u16).to_f32()),
        ty if ty.is_signed_int() => {
            let shift = 64 - ty.bits();
            (((raw << shift) as i64) >> shift).to_string()
        }
        _ => raw.to_string(),
    }
}
