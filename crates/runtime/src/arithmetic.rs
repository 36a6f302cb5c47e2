//! Which arithmetic a session's products have, and why, where that is not what was asked for.
//!
//! [`Arithmetic`](bespoke_templates::Arithmetic) is asked for once and for a whole model. What comes of it depends on the model,
//! which may have no such products, and on the architecture, which may have no such instruction or gain nothing from it.
//! All of that is known from a plan and an architecture, so that it can be said before anything runs.

use std::fmt;

use bespoke_device::Arch;
use bespoke_plan::Plan;
use bespoke_templates::Products;
use serde::Serialize;

/// What came of a choice: a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Steps compute so.
    Used,
    /// Steps compute so, and are no faster for it on this architecture.
    NoGain,
    /// The architecture has no instruction for it: steps compute exactly.
    NoInstruction,
    /// The model has no products of such operands.
    NoProducts,
}

/// A choice that was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArithmeticUse {
    /// What was asked for.
    #[serde(serialize_with = "as_text")]
    pub asked: Products,
    /// What steps do.
    #[serde(serialize_with = "as_text")]
    pub used: Products,
    /// Steps that multiply such operands during a run. Products of weights alone are computed at load, exactly.
    pub steps: usize,
    /// Why.
    pub outcome: Outcome,
    /// The architecture that kernels are compiled for; `None` where there is none.
    #[serde(serialize_with = "as_words")]
    pub arch: Option<Arch>,
}

fn as_text<S: serde::Serializer>(products: &Products, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(products)
}

fn as_words<S: serde::Serializer>(arch: &Option<Arch>, s: S) -> Result<S::Ok, S::Error> {
    match arch {
        Some(arch) => s.collect_str(arch),
        None => s.serialize_none(),
    }
}

impl ArithmeticUse {
    /// What comes of all that the plans were made with, on this architecture; empty where that is the exact arithmetic. The
    /// host, without an architecture, computes whatever is asked of it.
    pub fn of<'p>(
        plans: impl IntoIterator<Item = &'p Plan> + Clone,
        arch: Option<Arch>,
    ) -> Vec<ArithmeticUse> {
        let first = plans.clone().into_iter().next();
        let asked = first.map(|plan| plan.arithmetic).unwrap_or_default();
        let of = |asked: Products| {
            let steps = plans.clone().into_iter().flat_map(|plan| &plan.steps);
            let steps = steps.filter(|s| s.template.products() == Some(asked));
            let steps = steps.count();
            let used = arch.map_or(asked, |arch| asked.on(arch));
            let outcome = match arch {
                _ if steps == 0 => Outcome::NoProducts,
                _ if used != asked => Outcome::NoInstruction,
                Some(arch) if !asked.gains_on(arch) => Outcome::NoGain,
                _ => Outcome::Used,
            };
            ArithmeticUse {
                asked,
                used,
                steps,
                outcome,
                arch,
            }
        };
        asked.choices().map(of).collect()
    }
}

impl fmt::Display for ArithmeticUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (asked, steps) = (self.asked, self.steps);
        let many = if steps == 1 { "step" } else { "steps" };
        let arch = self.arch.map(|arch| arch.to_string());
        let arch = arch.as_deref().unwrap_or("the host");
        match self.outcome {
            Outcome::Used => write!(f, "arithmetic: {asked} in {steps} {many}"),
            Outcome::NoGain => write!(
                f,
                "arithmetic: {asked} in {steps} {many}, which gain nothing: {arch} multiplies as fast with sums in f32"
            ),
            Outcome::NoInstruction => write!(
                f,
                "arithmetic: {asked} is asked for and {arch} has no instruction for it: {steps} {many} multiply exactly"
            ),
            Outcome::NoProducts => {
                let operands = asked.operands().map(|dtype| format!(" of {dtype}"));
                let operands = operands.unwrap_or_default();
                write!(
                    f,
                    "arithmetic: {asked} is asked for and the model multiplies no matrices{operands}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bespoke_ir::op::MatMul;
    use bespoke_ir::{DType, Graph, TensorType};

    use super::*;

    /// Two products of f32.
    fn plan(arithmetic: &str) -> Plan {
        let mut g = Graph::new("products");
        let square = TensorType::new(DType::F32, vec![64.into(), 64.into()]);
        let x = g.add_input("x", square);
        let y = g.add1("y", MatMul::default(), &[x, x]).unwrap();
        let z = g.add1("z", MatMul::default(), &[y, x]).unwrap();
        g.add_output(z);
        bespoke_passes::canonicalize(&mut g).unwrap();
        bespoke_plan::plan_in(&g, arithmetic.parse().unwrap()).unwrap()
    }

    #[test]
    fn what_comes_of_a_choice_is_said() {
        let mut lines = Vec::new();
        for asked in ["exact", "tf32", "tf32,promoted"] {
            let plan = plan(asked);
            for arch in [None, Some(Arch::sm(75)), Some(Arch::sm(89))] {
                for came in ArithmeticUse::of([&plan], arch) {
                    lines.push(came.to_string());
                }
            }
        }
        let used = "arithmetic: tf32 in 2 steps";
        let without = "arithmetic: tf32 is asked for and sm_75 has no instruction for it: 2 steps multiply exactly";
        let none = "arithmetic: promoted is asked for and the model multiplies no matrices of f16";
        assert_eq!(
            lines,
            [used, without, used, used, none, without, none, used, none]
        );
    }

    #[test]
    fn sums_in_f16_gain_nothing_where_those_in_f32_are_as_fast() {
        let gains = |arch: &str| Products::F16Sums.gains_on(arch.parse().unwrap());
        assert!(gains("sm_75") && gains("sm_89") && gains("sm_120"));
        assert!(!gains("sm_80") && !gains("sm_90a") && !gains("sm_100"));
    }
}
