//! The arithmetic of matrix products of floats: what is exact, what is rounded, and how far a sum may be off.
//!
//! By default products of `f32` are computed in `f32` on plain arithmetic units, and products of `f16` and `bf16` on tensor
//! cores with sums in `f32`. Whoever can bear less may ask for more speed ([`Arithmetic`]), one choice for each operand type
//! ([`Products`]). Templates that multiply matrices have the choice of their own operands as an option: it is part of what
//! they describe, of their source, and so of every key. There is none for `bf16`, which tensor cores sum in `f32` alone.
//!
//! # How far a sum may be off
//!
//! [`Products::error`] bounds the distance of a sum of `k` products from the exact one, as a part of Σ|aᵢ·bᵢ|, beyond what sums
//! in `f32` have of their own. With u = 2⁻¹¹, the rounding of a number of eleven significant bits:
//!
//! - *tf32* rounds both operands to nearest: a product is off by (1 + u)² − 1 of itself at most.
//! - *f16 sums* are rounded after so many products as the hardware adds together. That is not documented; probes found
//!   four on the oldest tensor cores and eight or more later. Each rounding is at most u of a partial sum, which is at most
//!   Σ|aᵢ·bᵢ|: ⌈k/4⌉·u, and the factor of compounding.
//! - *promoted* sums are rounded so only within a run of [`PROMOTED_RUN`] products, whatever `k` is: 8·u, or 2⁻⁸. Runs are added
//!   up in `f32`.
//!
//! The bounds are of the worst case; rounding errors mostly cancel, and a typical error grows with the root of the number of
//! roundings. They hold while no partial sum leaves the range of `f16`: beyond 65,504 it is infinite, and below 2⁻¹⁴ a
//! rounding is off by 2⁻²⁵, whatever the sum.
//!
//! The host has the same arithmetic (`multiply`): it rounds operands as the instruction does, and sums after sixteen products,
//! which is what an instruction adds at once. So it shows the error of the choice without a GPU, and differs from a
//! device by no more than both bounds together.

mod host;

use std::fmt;
use std::str::FromStr;

use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::DType;

pub(crate) use self::host::multiply;

/// Products of which a promoted sum is kept in `f16`. Longer runs are less exact; with shorter ones adding up takes more
/// instructions than the arithmetic units have time for while the tensor cores multiply: two instructions of `mma.sync` take 32
/// cycles of theirs on a GeForce card, and adding up their sums takes some twelve cycles of the others. Every tile has
/// so much of a step for each of its warps.
pub const PROMOTED_RUN: usize = 32;

/// How a template computes products of its operands' type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Products {
    /// As exactly as there is hardware for: sums in `f32`, of `f32` without tensor cores.
    #[default]
    Exact,
    /// Of `f32` on tensor cores, with operands rounded to eleven significant bits.
    Tf32,
    /// Of `f16` with sums in `f16`.
    F16Sums,
    /// Of `f16` with sums in `f16` for a run of [`PROMOTED_RUN`], and these added up in `f32`.
    PromotedSums,
}

/// What there is to know of a choice.
struct Row {
    products: Products,
    /// What it is called where it is asked for.
    word: &'static str,
    /// Type of both operands.
    operands: DType,
    /// What it is called in the description of a kernel.
    text: &'static str,
    /// The first architecture with the instruction.
    since: u32,
    /// Operations a second.
    rate: fn(&DeviceProps) -> f64,
    /// What the kernel's source defines.
    define: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        products: Products::Tf32,
        word: "tf32",
        operands: DType::F32,
        text: " in tf32",
        since: 80,
        rate: DeviceProps::tf32_rate,
        define: "TF32 1",
    },
    Row {
        products: Products::F16Sums,
        word: "f16",
        operands: DType::F16,
        text: " in f16 sums",
        since: 75,
        rate: DeviceProps::f16_sums_rate,
        define: "F16_SUMS 1",
    },
    Row {
        products: Products::PromotedSums,
        word: "promoted",
        operands: DType::F16,
        text: " in promoted sums",
        since: 75,
        rate: DeviceProps::f16_sums_rate,
        define: "PROMOTED_RUN 32",
    },
];

impl Products {
    /// Every choice but the exact one.
    pub fn choices() -> impl Iterator<Item = Products> {
        ROWS.iter().map(|row| row.products)
    }

    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.products == self)
    }

    /// The word that asks for it.
    pub fn word(self) -> &'static str {
        self.row().map_or("exact", |row| row.word)
    }

    /// The type of the operands that it is a choice for; `None` for the exact one, which is one for all.
    pub fn operands(self) -> Option<DType> {
        Some(self.row()?.operands)
    }

    /// What a kernel does on an architecture that is asked for this: without the instruction, exact products.
    pub fn on(self, arch: Arch) -> Products {
        match self.row() {
            Some(row) if arch.number >= row.since => self,
            _ => Products::Exact,
        }
    }

    /// Whether an architecture's tensor cores are faster at it than at what they do unasked, or take the work from plain
    /// arithmetic units.
    pub fn gains_on(self, arch: Arch) -> bool {
        let props = DeviceProps::preset(arch);
        let faster = self.operands() == Some(DType::F32) || self.rate(&props) > props.f16_rate;
        faster && self.on(arch) != Products::Exact
    }

    /// The rate of tensor cores, or of what is used in their place, in operations a second.
    pub(crate) fn rate(self, props: &DeviceProps) -> f64 {
        self.row().map_or(props.f16_rate, |row| (row.rate)(props))
    }

    /// What is added to the types of the operands in a description; nothing for exact products.
    pub(crate) fn text(self) -> &'static str {
        self.row().map_or("", |row| row.text)
    }

    /// What the source of a kernel on tensor cores defines.
    pub(crate) fn definition(self) -> Option<&'static str> {
        Some(self.row()?.define)
    }

    /// Bytes of an operand's element in shared memory, on tensor cores.
    pub(crate) fn element(self) -> i64 {
        let operands = self.operands().unwrap_or(DType::F16);
        operands.size().unwrap_or(2) as i64
    }

    /// The bound of a sum of `k` products, as a part of the sum of their amounts; see the module.
    pub fn error(self, k: usize) -> f64 {
        let unit = 2f64.powi(-11);
        let compound = |roundings: usize| (1.0 + unit).powi(roundings as i32) - 1.0;
        match self {
            Products::Exact => 0.0,
            Products::Tf32 => compound(2),
            Products::F16Sums => compound(k.div_ceil(4)),
            Products::PromotedSums => compound(k.min(PROMOTED_RUN).div_ceil(4)),
        }
    }
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is asked for: a choice for each type of operands. Exact products, unless a word says otherwise.
///
/// As text it is `exact`, or words with commas between them: `tf32`, `f16` or `promoted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    f32: Products,
    f16: Products,
}

impl Arithmetic {
    /// The choice for products of these two types. Operands of two types have none.
    pub fn of(self, a: DType, b: DType) -> Products {
        match a {
            _ if a != b => Products::Exact,
            DType::F32 => self.f32,
            DType::F16 => self.f16,
            _ => Products::Exact,
        }
    }

    /// The same with a choice for its type of operands.
    #[must_use]
    pub fn with(mut self, products: Products) -> Arithmetic {
        match products.operands() {
            None => return Arithmetic::default(),
            Some(DType::F32) => self.f32 = products,
            Some(_) => self.f16 = products,
        }
        self
    }

    /// The choices that are not exact.
    pub fn choices(self) -> impl Iterator<Item = Products> {
        [self.f32, self.f16]
            .into_iter()
            .filter(|p| *p != Products::Exact)
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.choices().map(Products::word).collect();
        f.write_str(match words.is_empty() {
            true => Products::Exact.word(),
            false => "",
        })?;
        f.write_str(&words.join(","))
    }
}

/// Text that is no arithmetic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArithmeticError {
    /// A word that means nothing.
    #[error(
        "`{0}` is no arithmetic: write exact, or tf32, f16 or promoted, with commas between words for different types"
    )]
    Unknown(String),
    /// Two words for one type.
    #[error("`{0}` and `{1}` are both for products of {2}: write one of them")]
    Twice(&'static str, &'static str, DType),
    /// `exact` among other words.
    #[error("`exact` says that nothing else is asked for: write it alone, or leave it away")]
    NotAlone,
}

impl FromStr for Arithmetic {
    type Err = ArithmeticError;

    fn from_str(text: &str) -> Result<Arithmetic, ArithmeticError> {
        let exact = Products::Exact.word();
        if text == exact {
            return Ok(Arithmetic::default());
        }
        let mut all = Arithmetic::default();
        for word in text.split(',') {
            if word == exact {
                return Err(ArithmeticError::NotAlone);
            }
            let row = ROWS.iter().find(|row| row.word == word);
            let row = row.ok_or_else(|| ArithmeticError::Unknown(word.to_owned()))?;
            let before = all.of(row.operands, row.operands);
            if before != Products::Exact {
                return Err(ArithmeticError::Twice(
                    before.word(),
                    row.word,
                    row.operands,
                ));
            }
            all = all.with(row.products);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_arithmetics_are_the_same() {
        for text in [
            "exact",
            "tf32",
            "f16",
            "promoted",
            "tf32,f16",
            "tf32,promoted",
        ] {
            assert_eq!(text.parse::<Arithmetic>().unwrap().to_string(), text);
        }
        let both: Arithmetic = "promoted,tf32".parse().unwrap();
        assert_eq!(both.of(DType::F16, DType::F16), Products::PromotedSums);
        assert_eq!(both.of(DType::F32, DType::F32), Products::Tf32);
        for (a, b) in [(DType::F16, DType::F32), (DType::BF16, DType::BF16)] {
            assert_eq!(both.of(a, b), Products::Exact);
        }
        assert_eq!(both.with(Products::Exact), Arithmetic::default());
    }

    #[test]
    fn what_is_no_arithmetic_is_told_with_a_remedy() {
        let wrong = |text: &str| text.parse::<Arithmetic>().unwrap_err().to_string();
        insta::assert_snapshot!(wrong("fast"), @"`fast` is no arithmetic: write exact, or tf32, f16 or promoted, with commas between words for different types");
        insta::assert_snapshot!(wrong("f16,promoted"), @"`f16` and `promoted` are both for products of f16: write one of them");
        insta::assert_snapshot!(wrong("tf32,exact"), @"`exact` says that nothing else is asked for: write it alone, or leave it away");
        assert!(wrong("").contains("no arithmetic") && wrong("tf32,").contains("no arithmetic"));
    }

    #[test]
    fn architectures_do_what_they_have_instructions_for() {
        let text: String = [
            "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120",
        ]
        .map(|name| {
            let arch: Arch = name.parse().unwrap();
            let props = DeviceProps::preset(arch);
            let of = |p: Products| {
                let gains = if p.gains_on(arch) { "gains" } else { "none" };
                format!(
                    " {p}: {} {:.1}T {gains};",
                    p.on(arch),
                    p.rate(&props) / 1e12
                )
            };
            format!(
                "{name}{}\n",
                Products::choices().map(of).collect::<String>()
            )
        })
        .concat();
        insta::assert_snapshot!(text, @r"
        sm_75 tf32: exact 13.4T none; f16: f16 108.0T gains; promoted: promoted 108.0T gains;
        sm_80 tf32: tf32 156.0T gains; f16: f16 312.0T none; promoted: promoted 312.0T none;
        sm_86 tf32: tf32 35.5T gains; f16: f16 142.0T gains; promoted: promoted 142.0T gains;
        sm_89 tf32: tf32 82.5T gains; f16: f16 330.0T gains; promoted: promoted 330.0T gains;
        sm_90a tf32: tf32 494.5T gains; f16: f16 989.0T none; promoted: promoted 989.0T none;
        sm_100 tf32: tf32 1125.0T gains; f16: f16 2250.0T none; promoted: promoted 2250.0T none;
        sm_120 tf32: tf32 104.8T gains; f16: f16 419.0T gains; promoted: promoted 419.0T gains;
        ");
    }

    #[test]
    fn the_definition_has_the_length_of_a_run() {
        let defined = Products::PromotedSums.definition();
        assert_eq!(defined, Some(&*format!("PROMOTED_RUN {PROMOTED_RUN}")));
    }
}
