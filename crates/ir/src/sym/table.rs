//! Symbols: the unknowns of size expressions, and all that is known about them.

use std::fmt;

use super::SymInt;

/// The number of a symbol in its [`SymbolTable`]; also the index of its value in the slice given to
/// [`SymInt::eval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SymbolId(pub u32);

impl SymbolId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SymbolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// Where the value of a symbol comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SymbolOrigin {
    /// The extent of one axis of a graph input; known on the host before a run.
    InputDim {
        /// Index of the graph input.
        input: u32,
        /// Axis of that input, from 0.
        axis: u32,
    },
    /// One element of a small integer graph input that feeds shapes; read on the host before a run.
    InputValue {
        /// Index of the graph input.
        input: u32,
        /// Index of the element in row-major order.
        element: u32,
    },
    /// A value that a kernel computes during the run, such as the number of non-zero elements.
    DeviceValue {
        /// The value never exceeds this.
        bound: SymInt,
    },
    /// Learned by the host between two segments of a [flow](crate::flow): read from a tensor, or taken from the extents
    /// of a result. In the graph of a segment every symbol is of this origin: whoever runs the flow hands the values in.
    Cut,
    /// No origin: a parameter of a test, a template or a specification.
    Free,
}

/// An unknown non-negative (by default) integer.
///
/// Whoever binds a value must keep to what the symbol states: `min <= value <= max` and `value % divisor == 0`.
/// [`SymInt::range`], [`SymInt::divisibility`] and [`SymInt::simplify`] rely on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The name that the text form shows; unique in its table.
    pub name: String,
    /// Where the value comes from.
    pub origin: SymbolOrigin,
    /// Smallest possible value.
    pub min: i64,
    /// Largest possible value; `i64::MAX` means unbounded.
    pub max: i64,
    /// The value is always a multiple of this; at least 1.
    pub divisor: i64,
}

impl Symbol {
    /// A symbol of which nothing is known but that it is not negative.
    pub fn new(name: impl Into<String>, origin: SymbolOrigin) -> Symbol {
        Symbol {
            name: name.into(),
            origin,
            min: 0,
            max: i64::MAX,
            divisor: 1,
        }
    }
}

/// All symbols of a graph, in order of creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolTable {
    symbols: Vec<Symbol>,
}

impl SymbolTable {
    /// A table without symbols.
    pub fn new() -> SymbolTable {
        SymbolTable::default()
    }

    /// Adds a symbol and returns its number.
    ///
    /// Names are unique: if the name is taken, `_2`, `_3`, … is appended; an empty name becomes `s`. To share a symbol
    /// by name, look it up with [`find`](Self::find) first. A divisor below 1 becomes 1.
    pub fn add(&mut self, mut symbol: Symbol) -> SymbolId {
        if symbol.name.is_empty() {
            symbol.name.push('s');
        }
        if self.find(&symbol.name).is_some() {
            let base = std::mem::take(&mut symbol.name);
            let mut number = 2u64;
            symbol.name = loop {
                let name = format!("{base}_{number}");
                if self.find(&name).is_none() {
                    break name;
                }
                number += 1;
            };
        }
        symbol.divisor = symbol.divisor.max(1);
        // 2^32 symbols would need hundreds of GiB; the count saturates rather than wraps.
        let id = SymbolId(u32::try_from(self.symbols.len()).unwrap_or(u32::MAX));
        self.symbols.push(symbol);
        id
    }

    /// The symbol with this number, if it is of this table.
    pub fn get(&self, id: SymbolId) -> Option<&Symbol> {
        self.symbols.get(id.index())
    }

    /// The symbol with this number, to narrow what is known about it. Keep names unique and divisors positive.
    pub fn get_mut(&mut self, id: SymbolId) -> Option<&mut Symbol> {
        self.symbols.get_mut(id.index())
    }

    /// The number of the symbol with this name.
    pub fn find(&self, name: &str) -> Option<SymbolId> {
        let index = self.symbols.iter().position(|symbol| symbol.name == name)?;
        u32::try_from(index).ok().map(SymbolId)
    }

    /// How many symbols there are; also the number that the next one gets.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether there are no symbols.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The symbols with their numbers, in order of the numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SymbolId, &Symbol)> {
        self.symbols
            .iter()
            .enumerate()
            .map(|(index, symbol)| (SymbolId(index as u32), symbol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_unique() {
        let mut table = SymbolTable::new();
        let first = table.add(Symbol::new("N", SymbolOrigin::Free));
        let second = table.add(Symbol::new("N", SymbolOrigin::Free));
        let third = table.add(Symbol::new(
            "N",
            SymbolOrigin::InputDim { input: 0, axis: 1 },
        ));
        let unnamed = table.add(Symbol::new("", SymbolOrigin::Free));
        let names: Vec<&str> = table
            .iter()
            .map(|(_, symbol)| symbol.name.as_str())
            .collect();
        assert_eq!(names, ["N", "N_2", "N_3", "s"]);
        assert_eq!([first, second, third, unnamed].map(|id| id.0), [0, 1, 2, 3]);
        assert_eq!(table.find("N_3"), Some(third));
        assert_eq!(table.find("M"), None);
        assert_eq!(table.get(SymbolId(9)), None);
    }
}
