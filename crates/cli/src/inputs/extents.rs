//! What is known of the extents of a model's symbols, and from whom: files, shapes and dims, which must agree.

use bespoke::ir::{SymInt, SymbolOrigin, SymbolTable};
use bespoke::onnx::error::nearest;

use super::Port;
use crate::failure::Failure;
use crate::shapes::Dims;

/// Extents of the symbols, with who gave each.
#[derive(Debug)]
pub(crate) struct Extents<'a> {
    symbols: &'a SymbolTable,
    values: Vec<Option<(i64, String)>>,
    /// The extent of every other symbol.
    rest: Option<i64>,
}

impl<'a> Extents<'a> {
    /// The extents that `--dims` gives.
    ///
    /// # Errors
    ///
    /// A symbol that the model has not.
    pub(crate) fn new(symbols: &'a SymbolTable, dims: &Dims) -> Result<Extents<'a>, Failure> {
        let mut extents = Extents {
            symbols,
            values: vec![None; symbols.len()],
            rest: None,
        };
        for (name, value) in &dims.0 {
            if name == "*" {
                extents.rest = Some(*value);
                continue;
            }
            let Some(id) = symbols.find(name) else {
                let known: Vec<&str> = symbols.iter().map(|(_, s)| s.name.as_str()).collect();
                let help = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if known.is_empty() => {
                        "all its extents are fixed; leave --dims away".into()
                    }
                    None => format!("its symbols are {}", known.join(", ")),
                };
                return Err(Failure::usage(
                    format!("--dims: the model has no symbol `{name}`"),
                    help,
                ));
            };
            extents.set(id.index(), *value, "--dims".into())?;
        }
        Ok(extents)
    }

    fn set(&mut self, at: usize, value: i64, by: String) -> Result<(), Failure> {
        match &self.values[at] {
            Some((known, earlier)) if *known != value => {
                let name = self
                    .symbols
                    .iter()
                    .nth(at)
                    .map_or("", |(_, s)| s.name.as_str());
                Err(Failure::usage(
                    format!("the symbol `{name}` is {known} by {earlier} and {value} by {by}"),
                    "give it one extent",
                ))
            }
            _ => {
                self.values[at] = Some((value, by));
                Ok(())
            }
        }
    }

    /// Takes over the extents that somebody gives an input.
    ///
    /// # Errors
    ///
    /// Another rank, or an extent that the model or somebody else gives otherwise.
    pub(super) fn learn(&mut self, port: &Port<'_>, dims: &[i64], by: &str) -> Result<(), Failure> {
        let takes = || format!("the model takes {}", port.ty.display(self.symbols));
        if dims.len() != port.ty.rank() {
            let message = format!(
                "input `{}` has rank {} by {by}, {}",
                port.name,
                dims.len(),
                takes()
            );
            return Err(Failure::usage(
                message,
                format!("give it {} extents", port.ty.rank()),
            ));
        }
        for (axis, (&value, want)) in dims.iter().zip(&port.ty.dims).enumerate() {
            if let Some(fixed) = want.as_const().filter(|&fixed| fixed != value) {
                let message = format!(
                    "input `{}`: axis {axis} has extent {value} by {by}, {}",
                    port.name,
                    takes()
                );
                return Err(Failure::usage(
                    message,
                    format!("the model fixes this extent to {fixed}"),
                ));
            }
            if let Some(symbol) = want.as_symbol() {
                self.set(
                    symbol.index(),
                    value,
                    format!("{by} (input `{}`)", port.name),
                )?;
            }
        }
        Ok(())
    }

    /// The value of an expression; `Err` lists the symbols that are not given.
    pub(super) fn value(&self, expr: &SymInt) -> Result<i64, Vec<String>> {
        let missing: Vec<String> = expr
            .symbols()
            .into_iter()
            .filter(|id| self.of(id.index()).is_none())
            .filter_map(|id| self.symbols.get(id).map(|s| s.name.clone()))
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        expr.eval(&self.all())
            .map_err(|error| vec![format!("({error})")])
    }

    /// The extent of a symbol, if somebody gives one.
    pub(super) fn of(&self, index: usize) -> Option<i64> {
        let given = self.values[index].as_ref().map(|(value, _)| *value);
        given.or(self.rest)
    }

    /// The extents of all symbols, 0 where nobody gives one.
    pub(super) fn all(&self) -> Vec<i64> {
        let of = |index| self.of(index).unwrap_or(0);
        (0..self.values.len()).map(of).collect()
    }

    /// Values of all symbols, or the names of those that are not given. Values that a kernel computes take their bound.
    pub(crate) fn complete(&self) -> Result<Vec<i64>, Vec<String>> {
        let device = |o: &SymbolOrigin| matches!(o, SymbolOrigin::DeviceValue { .. });
        let missing: Vec<String> = self
            .symbols
            .iter()
            .filter(|(id, s)| self.of(id.index()).is_none() && !device(&s.origin))
            .map(|(_, s)| s.name.clone())
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let mut values = self.all();
        for (id, symbol) in self.symbols.iter() {
            if let (SymbolOrigin::DeviceValue { bound }, None) =
                (&symbol.origin, &self.values[id.index()])
            {
                values[id.index()] = bound.eval(&values).unwrap_or(0);
            }
        }
        Ok(values)
    }
}
