//! Several elementwise steps that do not need one another, in one launch.
//!
//! A kernel that moves a few kilobytes takes as long as its start: rotating a token's query, rotating its key into the
//! cache, copying the cache. Next to one another they cost one start. Each [part](Group::parts) is a [`Pointwise`] with its
//! own space, operands and results; blocks take chunks of the parts' work, one part after the other, so that a long part
//! and a short one end together. Parts move whole vectors along their last axis or single elements; a step that gains by
//! more than that (`pointwise::span`, `pointwise::across`) is better left alone. The planner says which steps do not need
//! one another.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};

use crate::pointwise::{Pointwise, persistent_grid};
use crate::sample::{Rng, Sample};
use crate::source::{cuda_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile, Want};

/// See the module.
///
/// The parameters are those of the first part with `p0_` before their names, then those of the second with `p1_`, and so on.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The steps.
    pub parts: Vec<Pointwise>,
}

/// Blocks of a multiprocessor that keep its memory busy; with more operands there are fewer, so that registers suffice.
const MOST_BLOCKS: i64 = 4;
/// Threads of a block.
const THREADS: i64 = 256;

/// Registers of a thread besides those for tensors and vectors: positions, and what a part computes.
const REGISTERS: i64 = 12;
/// Registers for where a tensor lies, its address and its offset. Those of all parts are read before the first part begins, as
/// each would wait for them otherwise.
const OF_TENSOR: i64 = 4;
/// Registers for a vector under way, and as many for where results of an item go and what it computes.
const OF_VECTOR: i64 = 4;

/// The name of a part's parameter among those of the group.
pub fn part_param(part: usize, name: &str) -> String {
    format!("p{part}_{name}")
}

/// Parameters of a part, and where its slots lie.
struct PartArgs {
    params: Vec<Param>,
    slots: Range<usize>,
}

impl PartArgs {
    fn of<'a>(&'a self, args: &'a Args<'_>) -> Args<'a> {
        Args::new(&self.params, &args.slots()[self.slots.clone()])
    }
}

impl Group {
    fn part_args(&self) -> Vec<PartArgs> {
        let mut end = 0;
        let part = |p: &Pointwise| {
            let params = p.params();
            let start = end;
            end += params.iter().map(|p| p.kind.slots()).sum::<usize>();
            PartArgs {
                params,
                slots: start..end,
            }
        };
        self.parts.iter().map(part).collect()
    }

    /// Blocks of a multiprocessor, where a thread has one item of a part at a time, or as many as it can if `deep`. The sum of
    /// registers is 4 less to 4 more than what compilers take that are free to, for two copies and for a copy beside two rotary
    /// embeddings.
    fn blocks(&self, deep: bool, props: &DeviceProps) -> i64 {
        let tensors = self
            .parts
            .iter()
            .map(|p| p.inputs().len() + p.outputs.len());
        let under_way = self.parts.iter().map(|p| {
            let items = if deep { p.loads_ahead() } else { 1 };
            items * OF_VECTOR * (p.inputs().len() as i64 + 1)
        });
        let held = OF_TENSOR * tensors.sum::<usize>() as i64;
        let registers = REGISTERS + held + under_way.max().unwrap_or(0);
        let all = i64::from(props.registers_per_multiprocessor) / THREADS;
        (all / registers.max(1)).clamp(1, MOST_BLOCKS)
    }

    /// What a thread moves at once, over all parts.
    fn items(&self, args: &Args<'_>) -> i64 {
        let parts = self.parts.iter().zip(self.part_args());
        let items = parts.map(|(p, a)| p.items(&a.of(args)));
        items.fold(0, i64::saturating_add)
    }
}

/// CUDA text of a part: a namespace with what the template prints for it and two functions of its arguments, `chunks` and
/// `walk`.
fn namespace(number: usize, part: &Pointwise, props: &DeviceProps) -> String {
    let definitions = part.definitions(props);
    let declare = |p: &Param| match p.dtype {
        Some(dtype) => {
            let constant = match p.kind {
                bespoke_device::SlotKind::Read => "const ",
                _ => "",
            };
            format!("{constant}{}* __restrict__ {}", cuda_type(dtype), p.name)
        }
        None if p.wide => format!("long long {}", p.name),
        None => format!("int {}", p.name),
    };
    let params: Vec<String> = part.params().iter().map(declare).collect();
    let params = params.join(", ");
    // loads in flight a thread, as many as registers allow
    let deep = part.loads_ahead();
    let mut out =
        format!("#define ITEMS (DEEP ? {deep} : 1)\nnamespace part{number} {{\n{definitions}");
    // writing to a String cannot fail
    let _ = write!(
        out,
        "__device__ __forceinline__ unsigned int chunks({params}) {{\n    \
         const long long items = TOTAL / (TOTAL < FAR && VECTORS ? VEC : 1);\n    \
         return (items + THREADS * ITEMS - 1) / (THREADS * ITEMS);\n}}\n\
         __device__ __forceinline__ void walk(unsigned int block, unsigned int blocks, {params}) {{\n    \
         WALK_LINES(block, blocks)\n}}\n}}\n"
    );
    // the next part has its own
    out.push_str("#undef ITEMS\n");
    for line in definitions.lines() {
        let Some(rest) = line.strip_prefix("#define ") else {
            continue;
        };
        let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        if let Some(name) = name.into_iter().next() {
            let _ = writeln!(out, "#undef {name}");
        }
    }
    out
}

impl Template for Group {
    fn name(&self) -> &'static str {
        "group"
    }

    fn describe(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(Template::describe).collect();
        parts.join(" | ")
    }

    fn params(&self) -> Vec<Param> {
        let mut params = Vec::new();
        for (i, part) in self.parts.iter().enumerate() {
            params.extend(part.params().into_iter().map(|p| Param {
                name: part_param(i, &p.name),
                ..p
            }));
        }
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "group.cu")
    }

    fn definitions(&self, props: &DeviceProps) -> String {
        let mut out = kernel_text!(""; "across.cuh", "pointwise.cuh").to_owned();
        let mut parts = String::from("#define PARTS");
        for (i, part) in self.parts.iter().enumerate() {
            out.push_str(&namespace(i, part, props));
            let names: Vec<String> = part
                .params()
                .iter()
                .map(|p| part_param(i, &p.name))
                .collect();
            let names = names.join(", ");
            // writing to a String cannot fail
            let _ = write!(parts, " \\\n    PART(part{i}, {names})");
        }
        let _ = writeln!(out, "{parts}");
        out
    }

    fn wants(&self, name: &str, args: &Args<'_>) -> Want {
        let parts = self.parts.iter().zip(self.part_args()).enumerate();
        for (i, (part, own)) in parts {
            if let Some(name) = name.strip_prefix(&part_param(i, "")) {
                return part.wants(name, &own.of(args));
            }
        }
        Want::Nothing
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        let tile = |deep| {
            let blocks = self.blocks(deep == 1, props);
            Tile::new(&[("THREADS", THREADS), ("DEEP", deep), ("BLOCKS", blocks)])
        };
        match args.map(|a| self.items(a)) {
            // what no shape is known for needs more registers an item
            None => vec![Tile::new(&[("THREADS", THREADS), ("DEEP", 0)])],
            // little work is spread over all multiprocessors before a thread takes more than one item
            Some(items) if items < i64::from(props.multiprocessors) * 2048 => {
                vec![tile(0), tile(1)]
            }
            Some(_) => vec![tile(1), tile(0)],
        }
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        let threads = tile.get("THREADS");
        let deep = tile.get("DEEP") == 1;
        let work = args.map(|a| {
            let parts = self.parts.iter().zip(self.part_args());
            // a part's last chunk may be nearly empty
            let chunks = parts.map(|(p, own)| {
                let chunk = threads * if deep { p.loads_ahead() } else { 1 };
                p.items(&own.of(a)) / chunk.max(1) + 1
            });
            chunks.fold(0, i64::saturating_add)
        });
        let rounds = if work.is_some() { 8 } else { 1 };
        let per_sm = 2048 / threads.max(1) * rounds;
        LaunchConfig {
            grid: [persistent_grid(work, 1, per_sm, props), 1, 1],
            block: threads as u32,
            shared_bytes: 0,
        }
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let parts = self.parts.iter().zip(self.part_args());
        parts
            .map(|(p, a)| p.cost(&a.of(args)))
            .fold(Cost::default(), |sum, c| Cost {
                operations: sum.operations + c.operations,
                bytes: sum.bytes + c.bytes,
                tensor_cores: None,
            })
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let mut rest = operands;
        for (part, own) in self.parts.iter().zip(self.part_args()) {
            let tensors = own.params.iter().filter(|p| p.dtype.is_some()).count();
            let Some((its, others)) = rest.split_at_mut_checked(tensors) else {
                return Err(TwinError("a part of a group lacks operands".to_owned()));
            };
            part.run(&own.of(args), its)?;
            rest = others;
        }
        Ok(())
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    let groups = [2, 3, 4, 2];
    groups.iter().map(|&parts| sample(rng, parts)).collect()
}

/// A random run of so many random parts.
fn sample(rng: &mut Rng, parts: usize) -> Sample {
    let mut group = Group { parts: Vec::new() };
    let (mut slots, mut tolerance) = (Vec::new(), 0.0_f64);
    while group.parts.len() < parts {
        for (part, sample) in crate::pointwise::typed_samples(rng) {
            if group.parts.len() < parts {
                group.parts.push(part);
                slots.extend(sample.slots);
                tolerance = tolerance.max(sample.tolerance);
            }
        }
    }
    Sample {
        template: Arc::new(group),
        slots,
        tolerance,
    }
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;
    use bespoke_ir::expr::BinaryOp;
    use bespoke_ir::{DType, Expr};

    use super::*;

    #[test]
    fn a_group_computes_what_its_parts_compute() {
        for seed in 0..30 {
            let mut parts = Vec::new();
            let mut rng = Rng::new(seed);
            for _ in 0..2 {
                parts.extend(crate::pointwise::typed_samples(&mut rng));
            }
            let mut slots = Vec::new();
            let mut want = Vec::new();
            for (_, sample) in &parts {
                slots.extend(sample.slots.iter().cloned());
                want.extend(sample.run_twin().unwrap());
            }
            let group = Sample {
                template: Arc::new(Group {
                    parts: parts.into_iter().map(|p| p.0).collect(),
                }),
                slots,
                tolerance: 0.0,
            };
            assert_eq!(group.run_twin().unwrap(), want);
        }
    }

    #[test]
    fn what_a_part_wants_is_asked_of_the_part() {
        let mut rng = Rng::new(5);
        let (part, first) = crate::pointwise::typed_samples(&mut rng).remove(0);
        let group = Group {
            parts: vec![part.clone(), part.clone()],
        };
        let params = group.params();
        let mut row = first.row();
        row.extend(first.row());
        let own = part.params();
        let single = first.row();
        let (args, alone) = (Args::new(&params, &row), Args::new(&own, &single));
        for (name, _) in alone.iter_ints() {
            for i in 0..2 {
                assert_eq!(
                    group.wants(&part_param(i, name), &args),
                    part.wants(name, &alone)
                );
            }
        }
    }

    #[test]
    fn source_of_a_copy_beside_a_sum() {
        let group = Group {
            parts: vec![
                Pointwise {
                    rank: 1,
                    outputs: vec![Expr::identity(DType::F32)],
                },
                Pointwise {
                    rank: 2,
                    outputs: vec![Expr::binary(BinaryOp::Add, DType::F16)],
                },
            ],
        };
        let text = group.definitions(&DeviceProps::preset(Arch::sm(89)));
        let own = text.split_once("namespace part0").unwrap().1;
        insta::assert_snapshot!(format!("namespace part0{own}"));
    }
}
