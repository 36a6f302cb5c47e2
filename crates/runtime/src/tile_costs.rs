//! What the tiles of a template's cost model take, measured beside what the model expects.
//!
//! A template orders its legal tiles by expected time, and a specialised kernel gets the first one. Whether that order is
//! that of the device is a question to the device: here the best few of every kind of step are compiled, all as the
//! specialised kernel of the shape would be but for their tile, and timed as in [`costs`](crate::costs). Who changes a
//! model or adds a tile compares; [refinement](crate::SessionOptions::refine) asks the same question while a model runs,
//! of fewer tiles.
//!
//! Steps of templates without a model are left out, since nothing orders their tiles by time.

use std::collections::BTreeMap;

use bespoke_policy::{ClassId, Signature};
use bespoke_templates::{Args, Tile};

use crate::error::Error;
use crate::kernels::Distinct;
use crate::program::{Blueprint, Program, config, integers};
use crate::request::Bindings;
use crate::session::Session;
use crate::tiles::StepKind;

/// A tile of a kind of step.
#[derive(Clone, Debug)]
pub struct TileCost {
    /// Number of the kind of step, in the order in which they first run.
    pub kind: usize,
    /// Names of the steps of this kind.
    pub steps: Vec<String>,
    /// Template, options and what is baked in.
    pub kernel: String,
    /// The tile.
    pub tile: String,
    /// What the model expects a launch to take, in milliseconds.
    pub expected_ms: f64,
    /// Device time of each timed launch of the first of the steps, in milliseconds.
    pub ms: Vec<f64>,
    /// The least time that the work takes by the device's rates, in milliseconds.
    pub floor_ms: f64,
}

/// Steps that do the same work.
struct Kind {
    steps: Vec<usize>,
    kernel: String,
    /// In the order of the model, each with its expected seconds.
    tiles: Vec<(Tile, f64)>,
    floor_ms: f64,
}

impl Session {
    /// Compiles and times, at the shape of the bindings, the `most` tiles that the model of each template thinks best, in so
    /// many launches each (at least one). The tile that a specialised kernel gets comes first of its kind. The outputs are
    /// those of a run.
    ///
    /// # Errors
    ///
    /// Those of a run, and on a device that needs it a kernel that does not compile.
    pub fn tile_costs(
        &self,
        bindings: &Bindings,
        launches: usize,
        most: usize,
    ) -> Result<Vec<TileCost>, Error> {
        self.single_graph("a table of tiles")?;
        let core = &*self.core;
        let (binding, pointers) = self.place(bindings)?;
        let props = core.loader.device.props();
        let class = ClassId::Exact(Signature::new(&binding.symbols));
        let plan = &core.plan;
        let blueprint = || Blueprint::of(plan, &class, &binding, props, core.bit_stable);

        let base = blueprint();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut index: BTreeMap<StepKind, Option<usize>> = BTreeMap::new();
        for (i, (spec, step)) in base.specs.iter().zip(&plan.steps).enumerate() {
            let params = step.template.params();
            let slots = integers(&params, step, &binding);
            let args = Args::new(&params, &slots);
            let known = index.entry(StepKind::of(spec, &args)).or_insert_with(|| {
                let tiles = spec.tiles(&args, props);
                let same = |t: &Tile| !core.bit_stable || step.template.same_sums(t, &spec.tile);
                // the tile in use comes first, also where it is another one than the model's first
                let others = tiles.filter(|t| *t != spec.tile && same(t));
                let all = std::iter::once(spec.tile.clone()).chain(others);
                let expected = |tile: Tile| {
                    let seconds = step.template.expected_seconds(&tile, &args, props)?;
                    Some((tile, seconds))
                };
                let tiles: Option<Vec<_>> = all.take(most.max(1)).map(expected).collect();
                let mut whole = spec.clone();
                whole.tile = Tile::default();
                kinds.push(Kind {
                    steps: Vec::new(),
                    kernel: whole.to_string(),
                    tiles: tiles?,
                    floor_ms: step.template.cost(&args).floor(props) * 1e3,
                });
                Some(kinds.len() - 1)
            });
            if let Some(kind) = *known {
                kinds[kind].steps.push(i);
            }
        }

        let ranks = kinds.iter().map(|k| k.tiles.len()).max().unwrap_or(0);
        let mut programs: Vec<Program> = Vec::with_capacity(ranks);
        for rank in 0..ranks {
            let mut blueprint = blueprint();
            for kind in &kinds {
                let Some((tile, _)) = kind.tiles.get(rank) else {
                    continue;
                };
                for &i in &kind.steps {
                    let step = &plan.steps[i];
                    let params = step.template.params();
                    let slots = integers(&params, step, &binding);
                    let args = Args::new(&params, &slots);
                    blueprint.specs[i].tile = tile.clone();
                    let args = blueprint.fixed[i].then_some(&args);
                    blueprint.configs[i] = config(&blueprint.specs[i], args, props);
                }
            }
            let distinct = Distinct::of(&blueprint);
            let requests = core.loader.requests(&distinct.specs);
            let (answers, _) = core.loader.service.get_all(requests, 0, |_| {});
            let class = Some(class.clone());
            let made = core
                .loader
                .program(u64::MAX, class, &blueprint, &distinct, &answers)?;
            programs.push(made);
        }

        let (passes, _) = self.times_of(&programs, &binding, &pointers, launches)?;
        let mut costs = Vec::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            let names = kind.steps.iter().map(|&i| plan.steps[i].name.clone());
            let names: Vec<String> = names.collect();
            for (rank, (tile, seconds)) in kind.tiles.into_iter().enumerate() {
                costs.push(TileCost {
                    kind: number,
                    steps: names.clone(),
                    kernel: kind.kernel.clone(),
                    tile: tile.to_string(),
                    expected_ms: seconds * 1e3,
                    ms: passes[rank].iter().map(|p| p[kind.steps[0]]).collect(),
                    floor_ms: kind.floor_ms,
                });
            }
        }
        Ok(costs)
    }
}
