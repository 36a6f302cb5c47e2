//! Which kernels a session would ask for, without a session and without a device.
//!
//! A plan needs no live device, a policy is a pure state machine, and a compile request is a pure function of a kernel's
//! specification and a device's figures. So the requests that a session on some card would make for some shapes are known
//! on any machine: the steps' generic kernels, those of the setup, and for each shape those of the class that the strategy
//! puts it in. [`Prebuild`] makes them with the very code that sessions use, so that a cache filled with them holds the
//! keys that a session looks up.
//!
//! What it cannot know is the card itself. Tiles are chosen by its figures (multiprocessors, shared memory, bandwidth):
//! on a card with other figures than the ones assumed, a session may ask for another tile and find no such entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bespoke_device::{Arch, DeviceProps};
use bespoke_ir::Graph;
use bespoke_plan::Plan;
use bespoke_policy::{Action, ClassId, Event, Growing, Limits, Signature, Tier, What};
use bespoke_templates::Arithmetic;

use crate::arithmetic::ArithmeticUse;
use crate::error::Error;
use crate::growth::growing;
use crate::program::Blueprint;
use crate::request::{PortInfo, in_order};
use crate::second::plan_at;
use crate::service::Request;
use crate::strategy::Strategy;

/// Sightings of a shape after which a strategy that has not asked for it is taken never to.
const SIGHTINGS: u64 = 1000;

/// What a kernel is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Serves {
    /// Every shape.
    Every,
    /// The preparation of weights, once at loading.
    Setup,
    /// The shape of this number in the list that was given, and all that share its class.
    Shape(usize),
}

/// A kernel that a session would ask for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The request, as the session makes it.
    pub request: Request,
    /// What it is for.
    pub serves: BTreeSet<Serves>,
    /// Steps that launch it, over all that it is for.
    pub steps: usize,
    /// Threads of a block, at most.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes, at most.
    pub shared_bytes: u32,
}

/// A planned model, ready to say which kernels it needs on any card.
#[derive(Debug)]
pub struct Prebuild {
    plan: Plan,
    /// For what is planned anew.
    graph: Graph,
}

impl Prebuild {
    /// Plans a graph as a session with this arithmetic does. The graph need not be canonical.
    ///
    /// # Errors
    ///
    /// [`Error::Pass`] and [`Error::Plan`] for what sessions reject too.
    pub fn new(mut graph: Graph, arithmetic: Arithmetic) -> Result<Prebuild, Error> {
        bespoke_passes::canonicalize(&mut graph)?;
        Ok(Prebuild {
            plan: bespoke_plan::plan_in(&graph, arithmetic)?,
            graph,
        })
    }

    /// Inputs in the model's order.
    pub fn inputs(&self) -> Vec<PortInfo> {
        let ports = self.plan.inputs.iter();
        ports.map(|port| PortInfo::of(&self.plan, port)).collect()
    }

    /// What comes of the arithmetic on an architecture; empty where that is the exact one.
    pub fn arithmetic(&self, arch: Arch) -> Vec<ArithmeticUse> {
        ArithmeticUse::of([&self.plan], Some(arch))
    }

    /// The distinct kernels that sessions on such a device ask for when they see these shapes, each a list of input names
    /// and extents, under this strategy; in the order of loading and then of the shapes.
    ///
    /// `bit_stable` is [`SessionOptions::bit_stable`](crate::SessionOptions::bit_stable) of those sessions.
    ///
    /// Every shape is taken as the only one that a session sees, and as the one that `static` tunes for: limits on the
    /// number of classes do not apply here.
    ///
    /// # Errors
    ///
    /// [`Error::MissingInput`] and [`Error::Bind`] for a shape that does not fit the model, [`Error::Policy`] for a
    /// strategy that makes no sense.
    pub fn kernels(
        &self,
        props: &DeviceProps,
        strategy: &Strategy,
        bit_stable: bool,
        shapes: &[Vec<(String, Vec<i64>)>],
    ) -> Result<Vec<Wanted>, Error> {
        let plan = &self.plan;
        let mut list = List {
            props,
            at: BTreeMap::new(),
            wanted: Vec::new(),
        };
        list.add(Blueprint::generic(plan, &plan.steps, props), Serves::Every);
        list.add(Blueprint::generic(plan, &plan.setup, props), Serves::Setup);
        for (number, shape) in shapes.iter().enumerate() {
            let signature = Signature::new(&plan.signature(&in_order(plan, shape)?)?);
            let serves = Serves::Shape(number);
            for (class, tier, tuned_for) in asked_for(strategy, &signature, &growing(plan))? {
                let binding = plan.bind_symbols(tuned_for.dims().to_vec())?;
                match tier {
                    Tier::First => {
                        list.add(
                            Blueprint::of(plan, &class, &binding, props, bit_stable),
                            serves,
                        );
                    }
                    Tier::Second if bit_stable => {}
                    // where a second tier would be no better, a session asks for nothing more either
                    Tier::Second => {
                        let at = (&class, &tuned_for);
                        if let Ok((own, _, blueprint)) = plan_at(&self.graph, plan, at, props) {
                            list.add(blueprint, serves);
                            list.add(Blueprint::generic(&own, &own.setup, props), serves);
                        }
                    }
                }
            }
        }
        Ok(list.wanted)
    }
}

/// What a strategy specialises for a shape, and the shapes that it tunes for: nothing, the class's first tier, or after
/// that its second too; and what these `growing` extents lead to.
fn asked_for(
    strategy: &Strategy,
    signature: &Signature,
    growing: &[Growing],
) -> Result<Vec<(ClassId, Tier, Signature)>, Error> {
    let mut policy = strategy.policy(Some(signature.clone()), Limits::default())?;
    policy.set_growing(growing);
    let seen = policy.class_of(signature);
    let mut asked = Vec::new();
    let tiers = if policy.has_second_tier() { 2 } else { 1 };
    let mut now_us = 0;
    let mut tell = |what| {
        now_us += 1;
        policy.on_event(&Event { now_us, what })
    };
    let sightings = (0..SIGHTINGS).map(|run| What::Observed {
        class: seen.clone(),
        signature: signature.clone(),
        run,
        generic: true,
    });
    for what in std::iter::once(What::Loaded).chain(sightings) {
        let mut said = VecDeque::from(tell(what));
        while let Some(action) = said.pop_front() {
            let Action::Specialise {
                class, tier, shape, ..
            } = action
            else {
                continue;
            };
            asked.push((class.clone(), tier, shape));
            // as if it had been made at once
            let finished = What::CompileFinished {
                class: class.clone(),
                tier,
                ok: true,
                micros: 0,
            };
            said.extend(tell(finished));
            said.extend(tell(What::Installed { class, tier }));
        }
        if asked.iter().filter(|(class, ..)| *class == seen).count() >= tiers {
            break;
        }
    }
    Ok(asked)
}

/// Distinct kernels so far.
struct List<'a> {
    props: &'a DeviceProps,
    at: BTreeMap<String, usize>,
    wanted: Vec<Wanted>,
}

impl List<'_> {
    fn add(&mut self, blueprint: Blueprint, serves: Serves) {
        for (spec, config) in blueprint.specs.iter().zip(&blueprint.configs) {
            let index = *self.at.entry(spec.to_string()).or_insert_with(|| {
                self.wanted.push(Wanted {
                    request: Request::new(spec, self.props, self.props.arch),
                    serves: BTreeSet::new(),
                    steps: 0,
                    threads: 0,
                    shared_bytes: 0,
                });
                self.wanted.len() - 1
            });
            let kernel = &mut self.wanted[index];
            kernel.serves.insert(serves);
            kernel.steps += 1;
            kernel.threads = kernel.threads.max(config.block);
            kernel.shared_bytes = kernel.shared_bytes.max(config.shared_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke_device::Arch;
    use bespoke_ir::op::MatMul;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, SymInt, TensorType};

    /// `x[n, 64] · y[64, 32]`.
    fn graph() -> Graph {
        let mut g = Graph::new("product");
        let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
        let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
        let f = DType::F32;
        let x = g.add_input("x", TensorType::new(f, vec![n, 64.into()]));
        let y = g.add_input("y", TensorType::new(f, vec![64.into(), 32.into()]));
        let z = g.add1("z", MatMul::default(), &[x, y]).unwrap();
        g.add_output(z);
        g
    }

    fn shape(n: i64) -> Vec<(String, Vec<i64>)> {
        vec![("x".into(), vec![n, 64]), ("y".into(), vec![64, 32])]
    }

    fn kernels(strategy: &str, shapes: &[i64]) -> Vec<Wanted> {
        let shapes: Vec<_> = shapes.iter().map(|&n| shape(n)).collect();
        let props = DeviceProps::preset(Arch::sm(89));
        let prebuild = Prebuild::new(graph(), Arithmetic::default()).unwrap();
        prebuild
            .kernels(&props, &strategy.into(), false, &shapes)
            .unwrap()
    }

    /// How many kernels serve what is asked.
    fn serving(list: &[Wanted], serves: Serves) -> usize {
        list.iter().filter(|w| w.serves.contains(&serves)).count()
    }

    #[test]
    fn each_strategy_asks_for_its_own_kernels() {
        let none = kernels("none", &[1, 500]);
        assert!(!none.is_empty());
        assert_eq!(serving(&none, Serves::Every), none.len());

        let eager = kernels("eager", &[1, 500]);
        assert!(eager.len() >= none.len() + 2, "each shape has its own");
        assert!(serving(&eager, Serves::Shape(0)) > 0 && serving(&eager, Serves::Shape(1)) > 0);
        // those that are seen later or more often are the same kernels
        let keys = |list: &[Wanted]| list.iter().map(|w| w.request.key()).collect::<Vec<_>>();
        for later in ["lazy", "hot"] {
            let later = keys(&kernels(later, &[1, 500]));
            // and for those of a second tier, where that has others
            assert!(keys(&eager).iter().all(|key| later.contains(key)));
        }
        assert!(
            kernels("static", &[500])
                .iter()
                .all(|w| !w.request.name().contains("n=500"))
        );
        assert!(serving(&kernels("static", &[500]), Serves::Shape(0)) > 0);
    }

    #[test]
    fn another_arithmetic_has_other_kernels() {
        let props = DeviceProps::preset(Arch::sm(89));
        let of = |words: &str| {
            let prebuild = Prebuild::new(graph(), words.parse().unwrap()).unwrap();
            let shapes = [shape(7)];
            let list = prebuild.kernels(&props, &"eager".into(), false, &shapes);
            list.unwrap()
        };
        let (exact, tf32) = (of("exact"), of("tf32"));
        assert_eq!(exact.len(), tf32.len());
        for kernel in &tf32 {
            let others = exact.iter().map(|w| w.request.key());
            assert!(others.into_iter().all(|key| key != kernel.request.key()));
            assert!(kernel.request.name().contains("f32xf32 in tf32"));
        }
        // the model has no such products
        let keys = |list: &[Wanted]| list.iter().map(|w| w.request.key()).collect::<Vec<_>>();
        assert_eq!(keys(&of("promoted")), keys(&exact));
    }

    #[test]
    fn equal_kernels_are_one() {
        let once = kernels("eager", &[7]);
        let twice = kernels("eager", &[7, 7]);
        assert_eq!(once.len(), twice.len());
        assert_eq!(
            serving(&twice, Serves::Shape(1)),
            serving(&once, Serves::Shape(0))
        );
        assert!(twice.iter().all(|w| w.threads > 0 && w.steps > 0));
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused() {
        let props = DeviceProps::preset(Arch::sm(89));
        let prebuild = Prebuild::new(graph(), Arithmetic::default()).unwrap();
        let ask = |shape| prebuild.kernels(&props, &"eager".into(), false, &[shape]);
        assert!(matches!(
            ask(vec![("x".into(), vec![1, 64])]),
            Err(Error::MissingInput(name)) if name == "y"
        ));
        let mut wrong = shape(1);
        wrong[0].1[1] = 63;
        assert!(matches!(ask(wrong), Err(Error::Bind(_))));
        assert_eq!(prebuild.inputs()[0].dims, ["N", "64"]);
    }
}
