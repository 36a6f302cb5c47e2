//! Several elementwise steps that do not need one another, in one launch.
//!
//! A kernel that moves a few kilobytes takes as long as its start: rotating a token's query, rotating its key into the
//! cache, copying the cache. Next to one another they cost one start. Each [part](Group::parts) is a [`Pointwise`] with its
//! own space, operands and results; blocks take chunks of the parts' work, one part after the other, so that a long part
//! and a short one end together. Parts move whole vectors along their last axis or single elements; a step that gains by
//! more than that (`pointwise::span`, `pointwise::across`) is better left alone. The planner says which steps do not need
//! one another, and which [tensors](Group::tensors) of theirs are one: what several parts read, or write parts of, is an operand
//! of the group once, which spares registers for its address.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};

use crate::grid;
use crate::pointwise::Pointwise;
use crate::sample::{Rng, Sample, SampleSlot};
use crate::source::{cuda_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile, Want};

/// See the module.
///
/// The parameters are those of the first part with `p0_` before their names, then those of the second with `p1_`, and so on; a
/// tensor that a part before has already is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The steps.
    pub parts: Vec<Pointwise>,
    /// For each part, which of the group's tensors each of its own is, in the order of its parameters. They are numbered as they
    /// first appear. Tensors that are one have one element type, and are either read by all parts or written by all.
    pub tensors: Vec<Vec<usize>>,
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

/// Parameters of a part, and where its slots lie among the group's.
struct PartArgs {
    params: Vec<Param>,
    slots: Vec<usize>,
}

impl PartArgs {
    /// The part's own row of slots.
    fn row(&self, args: &Args<'_>) -> Vec<i64> {
        self.slots.iter().map(|&at| args.slots()[at]).collect()
    }
}

impl Group {
    /// Steps that have no tensor in common.
    pub fn apart(parts: Vec<Pointwise>) -> Group {
        let mut end = 0;
        let of = |part: &Pointwise| {
            let own = part.params().iter().filter(|p| p.dtype.is_some()).count();
            end += own;
            (end - own..end).collect()
        };
        let tensors = parts.iter().map(of).collect();
        Group { parts, tensors }
    }

    /// For each part its parameters, each with the number of the tensor that it is.
    fn numbered(&self) -> Vec<Vec<(Param, Option<usize>)>> {
        let parts = self.parts.iter().zip(&self.tensors);
        let number = |(part, tensors): (&Pointwise, &Vec<usize>)| {
            let mut tensors = tensors.iter().copied();
            let params = part.params().into_iter();
            params
                .map(|p| {
                    let tensor = p.dtype.and_then(|_| tensors.next());
                    (p, tensor)
                })
                .collect()
        };
        parts.map(number).collect()
    }

    fn part_args(&self) -> Vec<PartArgs> {
        let mut end = 0;
        // where the slots of each tensor begin
        let mut begin: Vec<usize> = Vec::new();
        let part = |numbered: Vec<(Param, Option<usize>)>| {
            let mut own = PartArgs {
                params: Vec::with_capacity(numbered.len()),
                slots: Vec::new(),
            };
            for (param, tensor) in numbered {
                let slots = param.kind.slots();
                let at = match tensor.and_then(|t| begin.get(t)) {
                    Some(&at) => at,
                    None => {
                        begin.extend(tensor.map(|_| end));
                        end += slots;
                        end - slots
                    }
                };
                own.slots.extend(at..at + slots);
                own.params.push(param);
            }
            own
        };
        self.numbered().into_iter().map(part).collect()
    }

    /// The name of each tensor among the group's parameters.
    fn tensor_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for (i, numbered) in self.numbered().into_iter().enumerate() {
            for (param, tensor) in numbered {
                if tensor == Some(names.len()) {
                    names.push(part_param(i, &param.name));
                }
            }
        }
        names
    }

    /// Blocks of a multiprocessor, where a thread has one item of a part at a time, or as many as it can if `deep`. The sum of
    /// registers is 4 less to 4 more than what compilers take that are free to, for two copies and for a copy beside two rotary
    /// embeddings.
    fn blocks(&self, deep: bool, props: &DeviceProps) -> i64 {
        // what parts share is held once
        let tensors = self.tensor_names().len();
        let under_way = self.parts.iter().map(|p| {
            let items = if deep { p.loads_ahead() } else { 1 };
            items * OF_VECTOR * (p.inputs().len() as i64 + 1)
        });
        let held = OF_TENSOR * tensors as i64;
        let registers = REGISTERS + held + under_way.max().unwrap_or(0);
        let all = i64::from(props.registers_per_multiprocessor) / THREADS;
        (all / registers.max(1)).clamp(1, MOST_BLOCKS)
    }

    /// What a thread moves at once, over all parts.
    fn items(&self, args: &Args<'_>) -> i64 {
        let parts = self.parts.iter().zip(self.part_args());
        let items = parts.map(|(p, a)| p.items(&Args::new(&a.params, &a.row(args))));
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
        let mut text: Vec<String> = self.parts.iter().map(Template::describe).collect();
        let names = self.tensor_names();
        for (i, numbered) in self.numbered().into_iter().enumerate() {
            for (param, tensor) in numbered {
                let (own, known) = (
                    part_param(i, &param.name),
                    tensor.and_then(|t| names.get(t)),
                );
                if let Some(known) = known.filter(|known| **known != own) {
                    text.push(format!("{own} is {known}"));
                }
            }
        }
        text.join(" | ")
    }

    fn params(&self) -> Vec<Param> {
        let (mut params, mut tensors) = (Vec::new(), 0);
        for (i, numbered) in self.numbered().into_iter().enumerate() {
            for (param, tensor) in numbered {
                match tensor {
                    Some(t) if t < tensors => continue,
                    Some(_) => tensors += 1,
                    None => {}
                }
                params.push(Param {
                    name: part_param(i, &param.name),
                    ..param
                });
            }
        }
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "group.cu")
    }

    fn definitions(&self, props: &DeviceProps) -> String {
        let mut out = kernel_text!(""; "across.cuh", "pointwise.cuh").to_owned();
        let mut parts = String::from("#define PARTS");
        let tensors = self.tensor_names();
        for (i, (part, numbered)) in self.parts.iter().zip(self.numbered()).enumerate() {
            out.push_str(&namespace(i, part, props));
            let known = |(p, tensor): (Param, Option<usize>)| {
                let known = tensor.and_then(|t| tensors.get(t)).cloned();
                known.unwrap_or_else(|| part_param(i, &p.name))
            };
            let names: Vec<String> = numbered.into_iter().map(known).collect();
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
                return part.wants(name, &Args::new(&own.params, &own.row(args)));
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
                p.items(&Args::new(&own.params, &own.row(a))) / chunk.max(1) + 1
            });
            chunks.fold(0, i64::saturating_add)
        });
        grid::launch(work, 1, threads, grid::MANY, props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let parts = self.parts.iter().zip(self.part_args());
        parts
            .map(|(p, a)| p.cost(&Args::new(&a.params, &a.row(args))))
            .fold(Cost::default(), |sum, c| Cost {
                operations: sum.operations + c.operations,
                bytes: sum.bytes + c.bytes,
                tensor_cores: None,
            })
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let parts = self.parts.iter().zip(self.part_args());
        for ((part, own), tensors) in parts.zip(&self.tensors) {
            let mut its: Vec<Option<Operand<'_>>> = tensors.iter().map(|_| None).collect();
            for (number, operand) in operands.iter_mut().enumerate() {
                let places = tensors.iter().enumerate();
                let mut places = places.filter(|(_, t)| **t == number).map(|(at, _)| at);
                match operand {
                    Operand::Read(bytes) => {
                        places.for_each(|at| its[at] = Some(Operand::Read(bytes)))
                    }
                    // a part writes a tensor once
                    Operand::Write(bytes) => {
                        if let Some(at) = places.next() {
                            its[at] = Some(Operand::Write(bytes));
                        }
                    }
                }
            }
            let its: Option<Vec<_>> = its.into_iter().collect();
            let Some(mut its) = its else {
                return Err(TwinError("a part of a group lacks operands".to_owned()));
            };
            part.run(&Args::new(&own.params, &own.row(args)), &mut its)?;
        }
        Ok(())
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    let groups = [2, 3, 4, 2];
    let mut all: Vec<Sample> = groups.iter().map(|&parts| sample(rng, parts)).collect();
    all.extend(
        crate::pointwise::typed_samples(rng)
            .into_iter()
            .map(beside_itself),
    );
    all
}

/// A random run of so many random parts.
fn sample(rng: &mut Rng, parts: usize) -> Sample {
    let mut all = Vec::new();
    let (mut slots, mut tolerance) = (Vec::new(), 0.0_f64);
    while all.len() < parts {
        for (part, sample) in crate::pointwise::typed_samples(rng) {
            if all.len() < parts {
                all.push(part);
                slots.extend(sample.slots);
                tolerance = tolerance.max(sample.tolerance);
            }
        }
    }
    Sample {
        template: Arc::new(Group::apart(all)),
        slots,
        tolerance,
    }
}

/// A part twice: both read the same tensors, and the second writes behind the first.
fn beside_itself((part, sample): (Pointwise, Sample)) -> Sample {
    let params = part.params();
    let tensors: Vec<usize> = (0..params.iter().filter(|p| p.dtype.is_some()).count()).collect();
    let mut slots = sample.slots.clone();
    for (param, slot) in params.iter().zip(&sample.slots) {
        let SampleSlot::Int(value) = slot else {
            continue;
        };
        // where a result's memory ends for the first part, in its elements
        let view = param.name.strip_suffix("_o");
        let length = params.iter().zip(&sample.slots).find_map(|(p, slot)| {
            let bytes = match slot {
                SampleSlot::Write(bytes) if Some(p.name.as_str()) == view => bytes.len(),
                _ => return None,
            };
            Some(bytes / p.dtype?.size()?)
        });
        slots.push(SampleSlot::Int(value + length.unwrap_or(0) as i64));
    }
    for slot in &mut slots {
        if let SampleSlot::Write(bytes) = slot {
            bytes.extend_from_within(..);
        }
    }
    let group = Group {
        parts: vec![part.clone(), part],
        tensors: vec![tensors.clone(), tensors],
    };
    Sample {
        template: Arc::new(group),
        slots,
        tolerance: sample.tolerance,
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
                template: Arc::new(Group::apart(parts.into_iter().map(|p| p.0).collect())),
                slots,
                tolerance: 0.0,
            };
            assert_eq!(group.run_twin().unwrap(), want);
        }
    }

    #[test]
    fn parts_that_share_tensors_compute_what_they_compute_alone() {
        for seed in 0..30 {
            for (part, sample) in crate::pointwise::typed_samples(&mut Rng::new(seed)) {
                let alone = sample.run_twin().unwrap();
                let both = beside_itself((part, sample));
                let together = both.run_twin().unwrap();
                for (alone, both) in alone.iter().zip(together) {
                    let (first, second) = both.split_at(alone.len());
                    assert!(first == alone && second == alone);
                }
                // every tensor is an argument once
                let params = both.template.params();
                let tensors = params.iter().filter(|p| p.dtype.is_some());
                assert!(tensors.clone().all(|p| p.name.starts_with("p0_")));
                let slots: usize = params.iter().map(|p| p.kind.slots()).sum();
                assert_eq!(slots, both.row().len());
            }
        }
    }

    #[test]
    fn what_is_shared_is_part_of_the_name() {
        let add = Pointwise {
            rank: 1,
            outputs: vec![Expr::binary(BinaryOp::Add, DType::F16)],
        };
        let group = Group {
            parts: vec![add.clone(), add],
            tensors: vec![vec![0, 1, 1], vec![0, 2, 1]],
        };
        assert_eq!(
            group.describe(),
            "rank=1 (f16, f16) -> f16 = add(x0, x1) | rank=1 (f16, f16) -> f16 = add(x0, x1) \
             | p0_x1 is p0_x0 | p1_y0 is p0_y0 | p1_x1 is p0_x0"
        );
        let params = group.params();
        let tensors = params.iter().filter(|p| p.dtype.is_some());
        let tensors: Vec<&str> = tensors.map(|p| p.name.as_str()).collect();
        assert_eq!(tensors, ["p0_y0", "p0_x0", "p1_x0"]);
        let text = group.definitions(&DeviceProps::preset(Arch::sm(89)));
        let call = text.lines().find(|l| l.contains("PART(part1,")).unwrap();
        assert!(call.contains("p1_x0, ") && call.contains("p0_x0, ") && call.contains("p0_y0, "));
    }

    #[test]
    fn what_a_part_wants_is_asked_of_the_part() {
        let mut rng = Rng::new(5);
        let (part, first) = crate::pointwise::typed_samples(&mut rng).remove(0);
        let group = Group::apart(vec![part.clone(), part.clone()]);
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
        let pointwise = |rank, result| Pointwise {
            rank,
            outputs: vec![result],
        };
        let group = Group::apart(vec![
            pointwise(1, Expr::identity(DType::F32)),
            pointwise(2, Expr::binary(BinaryOp::Add, DType::F16)),
        ]);
        let text = group.definitions(&DeviceProps::preset(Arch::sm(89)));
        let own = text.split_once("namespace part0").unwrap().1;
        insta::assert_snapshot!(format!("namespace part0{own}"));
    }
}
