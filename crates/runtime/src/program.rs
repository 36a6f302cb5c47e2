//! Programs: one kernel a step.
//!
//! A program is immutable. The generic one serves every shape; a specialised one serves its class. The generic program
//! and all of the first tier have the same steps in the same order with the same slots, so a graph of one becomes a graph
//! of another by node updates alone; so does one of both, whose steps have specialised kernels where such are there and
//! generic ones elsewhere. A program of the second tier serves one shape and has a plan of its own, made with
//! every extent a constant, and what belongs to that: its binding and its weights. Programs of one shape have an extent block
//! of their own on each lane.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bespoke_device::{DeviceProps, DevicePtr, Kernel, Launch, LaunchConfig, MAP_SLOTS, SlotKind};
use bespoke_ir::SymInt;
use bespoke_plan::{Arg, Binding, Plan, Step};
use bespoke_policy::{ClassId, Fit, Tier};
use bespoke_templates::{Args, Baked, KernelSpec, Param};

use crate::crew;
use crate::weights::Weights;

/// See the module.
#[derive(Debug)]
pub struct Program {
    /// Number in its session; the generic program is 0.
    pub id: u64,
    /// The shapes that it serves; `None` is the generic program, which serves all.
    pub class: Option<ClassId>,
    /// The kernel of each step.
    pub kernels: Vec<(Arc<dyn Kernel>, LaunchConfig)>,
    /// How many kernels are generic: all of the generic program, some of one that [borrows](crate::director) what is there.
    pub generic: usize,
    /// The plan that it follows, if that is not the session's.
    pub(crate) own: Option<Arc<Own>>,
}

/// What a program of the second tier has for itself.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) plan: Arc<Plan>,
    /// Of the one shape that it serves.
    pub(crate) binding: Arc<Binding>,
    pub(crate) weights: Weights,
}

impl Program {
    /// Which tier it is of; `None` is the generic program, and one that is so in part.
    pub fn tier(&self) -> Option<Tier> {
        let second = self.own.is_some();
        if self.class.is_none() || self.generic > 0 {
            return None;
        }
        Some(if second { Tier::Second } else { Tier::First })
    }

    /// Its tier as events and reports say it: 0 is the generic program.
    pub fn tier_number(&self) -> u8 {
        self.tier().map_or(0, Tier::number)
    }

    /// Whether it has an extent block of its own on each lane: it serves one shape, so that the block is written once and no
    /// other shape's run changes it.
    pub(crate) fn has_block(&self) -> bool {
        self.own.is_some() || matches!(self.class, Some(ClassId::Exact(_)))
    }

    /// The plan that it follows, given the session's.
    pub(crate) fn plan<'a>(&'a self, session: &'a Plan) -> &'a Plan {
        match &self.own {
            Some(own) => &own.plan,
            None => session,
        }
    }

    /// A shape that it serves, bound to its plan, given the same bound to the session's.
    pub(crate) fn binding<'a>(&'a self, session: &'a Binding) -> &'a Binding {
        match &self.own {
            Some(own) => &own.binding,
            None => session,
        }
    }

    /// What its plan reads of what is there before the first run, given the session's.
    pub(crate) fn weights<'a>(&'a self, session: &'a Weights) -> &'a Weights {
        match &self.own {
            Some(own) => &own.weights,
            None => session,
        }
    }

    /// Number of kernels made for the class.
    pub fn specialized(&self) -> usize {
        self.kernels.len() - self.generic
    }

    /// The launches over an extent block.
    pub fn launches(&self, steps: &[Step], block: DevicePtr) -> Vec<Launch> {
        self.kernels
            .iter()
            .zip(steps)
            .map(|((kernel, config), step)| Launch {
                kernel: kernel.clone(),
                config: *config,
                slots: block.offset(step.first_slot as u64 * 8),
            })
            .collect()
    }
}

/// What each step's kernel is to be, before it is compiled.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) specs: Vec<KernelSpec>,
    pub(crate) configs: Vec<LaunchConfig>,
    /// Whether a step's launch is that of one shape: its class leaves no argument open.
    pub(crate) fixed: Vec<bool>,
    pub(crate) generic: usize,
}

impl Blueprint {
    /// Kernels that serve every shape, of these steps of a plan.
    pub(crate) fn generic(plan: &Plan, steps: &[Step], props: &DeviceProps) -> Blueprint {
        let place = |step: &Step| generic_tile(plan, step);
        let key = |step: &Step| (step.template.name(), step.template.describe(), place(step));
        let make = |step: &Step| {
            let spec = KernelSpec::generic_at(step.template.clone(), place(step), props);
            let config = config(&spec, None, props);
            (spec, config, false)
        };
        Blueprint {
            generic: steps.len(),
            ..Blueprint::made(alike(steps, key, make))
        }
    }

    /// Of each step its kernel, its launch and whether that is the launch of one shape.
    fn made(steps: Vec<(KernelSpec, LaunchConfig, bool)>) -> Blueprint {
        let fixed = steps.iter().map(|step| step.2).collect();
        let (specs, configs) = steps.into_iter().map(|(s, c, _)| (s, c)).unzip();
        Blueprint {
            specs,
            configs,
            fixed,
            generic: 0,
        }
    }

    /// Kernels that serve a class of shapes and are best at one of them. What holds for the whole class is baked in. Bit
    /// for bit stable ones keep the generic tiles, which fix the order of sums.
    pub(crate) fn of(
        plan: &Plan,
        class: &ClassId,
        binding: &Binding,
        props: &DeviceProps,
        bit_stable: bool,
    ) -> Blueprint {
        let exact = matches!(class, ClassId::Exact(_));
        let known = match class {
            ClassId::Any | ClassId::Exact(_) => None,
            ClassId::Fits(fits) => Some(knowledge(plan, fits)),
        };
        // what is known of an argument of the class
        let fit = |arg: &Arg| match (arg, &known) {
            (Arg::Int(e), Some(known)) => known[e.0 as usize],
            _ => None,
        };
        let key = |step: &Step| {
            let template = &step.template;
            let slots = integers(&template.params(), step, binding);
            let fits: Vec<Option<Baked>> = step.args.iter().map(fit).collect();
            (template.name(), template.describe(), slots, fits)
        };
        let make = |step: &Step| {
            let params = step.template.params();
            let slots = integers(&params, step, binding);
            let args = Args::new(&params, &slots);
            let template = step.template.clone();
            let baked = |name: &str, value: i64| match &known {
                None => exact.then_some(Baked::Exact(value)),
                Some(_) => {
                    let at = params.iter().position(|p| p.name == name)?;
                    fit(step.args.get(at)?)
                }
            };
            let mut spec = KernelSpec::specialised(template, &args, baked, props);
            if bit_stable {
                let place = generic_tile(plan, step);
                spec.tile = KernelSpec::generic_at(step.template.clone(), place, props).tile;
            }
            // where the class leaves no argument open, the launch is that of one shape
            let fixed = |arg: &Arg| match arg {
                Arg::Int(_) => matches!(fit(arg), Some(Baked::Exact(_))),
                // what a map is of is fixed with its integers
                Arg::Read(_) | Arg::Write(_) | Arg::Map(_) => true,
            };
            let one = exact || (known.is_some() && step.args.iter().all(fixed));
            let config = config(&spec, one.then_some(&args), props);
            (spec, config, one)
        };
        Blueprint::made(alike(&plan.steps, key, make))
    }

    /// Whether both launch the same kernels in the same order. Numbers that no template has a use for, and the addresses of
    /// what is read and written, may differ: they are arguments.
    pub(crate) fn is_like(&self, other: &Blueprint) -> bool {
        let texts = |b: &Blueprint| b.specs.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.configs == other.configs && texts(self) == texts(other)
    }
}

/// What `make` makes of each step, called once for all steps of one key. A model has several times as many steps as
/// different ones, and to choose a tile takes longer than to see that it was chosen.
fn alike<K: Eq + Hash + Send, T: Clone + Send>(
    steps: &[Step],
    key: impl Fn(&Step) -> K + Sync,
    make: impl Fn(&Step) -> T + Sync,
) -> Vec<T> {
    let mut index: HashMap<K, usize> = HashMap::new();
    let mut first = Vec::new();
    let mut of_step = Vec::with_capacity(steps.len());
    for (step, key) in steps.iter().zip(crew::map(steps, |_, step| key(step))) {
        of_step.push(*index.entry(key).or_insert_with(|| {
            first.push(step);
            first.len() - 1
        }));
    }
    let made = crew::map(&first, |_, step| make(step));
    of_step.into_iter().map(|i| made[i].clone()).collect()
}

/// Which of a template's generic tiles a step gets, by the arguments that are the same at every shape.
fn generic_tile(plan: &Plan, step: &Step) -> usize {
    // most templates have one tile and ask for nothing
    let params = LazyCell::new(|| step.template.params());
    step.template.generic_tile(&|name| {
        let at = params.iter().position(|p| p.name == name)?;
        match step.args.get(at)? {
            Arg::Int(e) => plan.exprs[e.0 as usize].as_const(),
            Arg::Read(_) | Arg::Write(_) | Arg::Map(_) => None,
        }
    })
}

/// What is known of every expression of a plan when all extents are of these kinds.
fn knowledge(plan: &Plan, fits: &[Fit]) -> Vec<Option<Baked>> {
    let mut symbols = plan.symbols.clone();
    let ids: Vec<_> = symbols.iter().map(|(id, _)| id).collect();
    for (id, fit) in ids.into_iter().zip(fits) {
        let Some(symbol) = symbols.get_mut(id) else {
            continue;
        };
        match *fit {
            Fit::Any => {}
            Fit::Exact(value) => (symbol.min, symbol.max) = (value, value),
            // both hold; the larger one says more
            Fit::Multiple(divisor) => symbol.divisor = symbol.divisor.max(divisor),
            Fit::Range(low, high) => {
                (symbol.min, symbol.max) = (symbol.min.max(low), symbol.max.min(high));
            }
        }
    }
    let of = |e: &SymInt| {
        let (low, high) = e.range(&symbols);
        let divisor = e.divisibility(&symbols);
        if low == high {
            Some(Baked::Exact(low))
        } else {
            (divisor > 1).then_some(Baked::Multiple(divisor))
        }
    };
    crew::map(&plan.exprs, |_, e| of(e))
}

/// The slots of a step without addresses and tensor maps: enough for tiles and geometry.
pub(crate) fn integers(params: &[Param], step: &Step, binding: &Binding) -> Vec<i64> {
    let mut slots = Vec::with_capacity(step.slots);
    for (param, arg) in params.iter().zip(&step.args) {
        match arg {
            Arg::Int(e) => slots.push(binding.get(*e)),
            Arg::Read(_) | Arg::Write(_) => slots.extend([0, 0]),
            Arg::Map(_) => slots.extend([0; MAP_SLOTS]),
        }
        debug_assert!(matches!(
            (arg, &param.kind),
            (Arg::Int(_), SlotKind::Int)
                | (Arg::Read(_), SlotKind::Read)
                | (Arg::Write(_), SlotKind::Write)
                | (Arg::Map(_), SlotKind::Map(_))
        ));
    }
    slots
}

/// A launch needs at least one block and one thread, whatever the extents.
pub(crate) fn config(
    spec: &KernelSpec,
    args: Option<&Args<'_>>,
    props: &DeviceProps,
) -> LaunchConfig {
    let mut config = spec.template.geometry(&spec.tile, args, props);
    for g in &mut config.grid {
        *g = (*g).max(1);
    }
    config.block = config.block.max(1);
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_device::Arch;
    use bespoke_ir::op::MatMul;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, Graph, TensorType};
    use bespoke_policy::{ClassMap, Signature};
    use proptest::prelude::*;

    /// `x[n, 4m+2] · y[4m+2, n+1]`, whose arguments are expressions of both extents.
    fn plan() -> Plan {
        let mut g = Graph::new("product");
        let mut symbol = |name: &str, input, axis| {
            let origin = SymbolOrigin::InputDim { input, axis };
            SymInt::symbol(g.symbols.add(Symbol::new(name, origin)))
        };
        let (n, m) = (symbol("N", 0, 0), symbol("M", 0, 1));
        let k = m * 4 + 2;
        let f = DType::F32;
        let x = g.add_input("x", TensorType::new(f, vec![n.clone(), k.clone()]));
        let y = g.add_input("y", TensorType::new(f, vec![k, n + 1]));
        let z = g.add1("z", MatMul::default(), &[x, y]).unwrap();
        g.add_output(z);
        bespoke_plan::plan(&g).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_baked_in_holds_for_the_whole_class(
            seen in (1_i64..200, 1_i64..200),
            other in (1_i64..200, 1_i64..200),
            map in prop_oneof![
                Just(ClassMap::Exact),
                Just(ClassMap::Ranges { ratio: 2 }),
                Just(ClassMap::Ranges { ratio: 300 }),
                Just(ClassMap::Divisible { by: vec![16, 8, 4, 2] }),
            ],
        ) {
            let plan = plan();
            let props = DeviceProps::preset(Arch::sm(89));
            let class = map.class_of(&Signature::new(&[seen.0, seen.1]));
            let bind = |(n, m)| plan.bind_symbols(vec![n, m]).unwrap();
            let blueprint = Blueprint::of(&plan, &class, &bind(seen), &props, false);
            for (n, m) in [seen, other] {
                if !class.fits(&Signature::new(&[n, m])) {
                    continue;
                }
                let binding = bind((n, m));
                for (spec, step) in blueprint.specs.iter().zip(&plan.steps) {
                    let params = spec.template.params();
                    let slots = integers(&params, step, &binding);
                    prop_assert!(spec.admits(&Args::new(&params, &slots)), "{class}: {spec} at {n}x{m}");
                }
            }
        }
    }

    #[test]
    fn a_class_of_multiples_bakes_multiples() {
        let plan = plan();
        let props = DeviceProps::preset(Arch::sm(89));
        let map = ClassMap::Divisible { by: vec![16, 8] };
        let class = map.class_of(&Signature::new(&[32, 5]));
        let binding = plan.bind_symbols(vec![32, 5]).unwrap();
        let text = Blueprint::of(&plan, &class, &binding, &props, false).specs[0].to_string();
        // the class knows that 16 divides `m`; the template asks for no more than 8
        assert!(text.contains("m%8") && text.contains("k%2"), "{text}");
    }
}
