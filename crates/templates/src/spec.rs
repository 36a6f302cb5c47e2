//! Specifications: which kernel, with which constants.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bespoke_device::map::{BATCHES, Extent, Lines};
use bespoke_device::{
    DeviceProps, Image, LaunchConfig, MAP_SLOTS, MapOf, Operand, Signature, SlotKind, Twin,
    TwinCall, TwinError,
};
use bespoke_ir::DType;

use crate::arithmetic::Products;

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in the CUDA source; a valid identifier made by the template.
    pub name: String,
    /// Tensor, integer or tensor map.
    pub kind: SlotKind,
    /// Element type of a tensor.
    pub dtype: Option<DType>,
    /// Whether an integer needs 64 bits in the kernel (offsets and strides do, extents do not).
    pub wide: bool,
}

impl Param {
    /// A tensor that the kernel reads.
    pub fn read(name: impl Into<String>, dtype: DType) -> Param {
        Param {
            name: name.into(),
            kind: SlotKind::Read,
            dtype: Some(dtype),
            wide: false,
        }
    }

    /// A tensor that the kernel writes.
    pub fn write(name: impl Into<String>, dtype: DType) -> Param {
        Param {
            name: name.into(),
            kind: SlotKind::Write,
            dtype: Some(dtype),
            wide: false,
        }
    }

    /// An extent or another integer of 32 bits.
    pub fn int(name: impl Into<String>) -> Param {
        Param {
            name: name.into(),
            kind: SlotKind::Int,
            dtype: None,
            wide: false,
        }
    }

    /// An offset, a stride or another integer of 64 bits.
    pub fn wide(name: impl Into<String>) -> Param {
        Param {
            name: name.into(),
            kind: SlotKind::Int,
            dtype: None,
            wide: true,
        }
    }
}

/// An operand that a kernel wants a tensor map of, by the names of its parameters; see [`MapOf`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped<'a> {
    /// The map's own name.
    pub(crate) name: &'a str,
    /// The tensor.
    pub(crate) tensor: &'a str,
    /// Its offset.
    pub(crate) offset: &'a str,
    /// Number of rows, and from one to the next.
    pub(crate) rows: [&'a str; 2],
    /// Number of steps, and from one to the next.
    pub(crate) steps: (Steps<'a>, &'a str),
    /// Number of matrices along an axis of theirs, and from one to the next.
    pub(crate) batches: &'a [[String; 2]],
    /// The order of rows.
    pub(crate) lines: Lines,
}

/// A number of steps of an operand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Steps<'a> {
    /// That of an argument.
    Named(&'a str),
    /// Always this.
    Is(i64),
}

/// Parameters with tensor maps before them. A map whose tensor or integers the list lacks is a bug of the template: debug
/// builds assert, release builds leave it out.
pub(crate) fn with_maps(maps: &[Mapped<'_>], params: Vec<Param>) -> Vec<Param> {
    let before = maps.len() * MAP_SLOTS;
    let find = |name: &str| {
        let at = params.iter().position(|p| p.name == name)?;
        let slots = params[..at].iter().map(|p| p.kind.slots()).sum::<usize>();
        Some((before + slots, params[at].dtype))
    };
    let map = |m: &Mapped<'_>| {
        let (tensor, element) = find(m.tensor)?;
        let mut batches = [None; BATCHES];
        for (batch, [extent, stride]) in batches.iter_mut().zip(m.batches) {
            *batch = Some((find(extent)?.0, find(stride)?.0));
        }
        Some(Param {
            name: m.name.to_owned(),
            kind: SlotKind::Map(MapOf {
                tensor,
                element: element?,
                offset: find(m.offset)?.0,
                rows: find(m.rows[0])?.0,
                row_stride: find(m.rows[1])?.0,
                steps: match m.steps.0 {
                    Steps::Named(name) => Extent::At(find(name)?.0),
                    Steps::Is(steps) => Extent::Is(steps),
                },
                step_stride: find(m.steps.1)?.0,
                lines: m.lines,
                batches,
            }),
            dtype: None,
            wide: false,
        })
    };
    let made: Option<Vec<Param>> = maps.iter().map(map).collect();
    debug_assert!(made.is_some(), "a map of no operand: {maps:?}");
    let mut all = made.unwrap_or_default();
    all.extend(params);
    all
}

/// Whether there is a map of each operand that the parameters want one of, wherever the operands begin.
pub(crate) fn has_maps(params: &[Param], args: &Args<'_>) -> bool {
    let mut row = args.slots().to_vec();
    let maps = params.iter().filter_map(|p| match &p.kind {
        SlotKind::Map(of) => Some(of),
        _ => None,
    });
    maps.into_iter().all(|of| {
        // the runtime serves only addresses that are multiples of 16 bytes with such kernels
        row[of.tensor] = 1 << 20;
        of.map(&row).is_some()
    })
}

/// The signature of a list of parameters.
pub fn signature(params: &[Param]) -> Signature {
    Signature(params.iter().map(|p| p.kind.clone()).collect())
}

/// The arguments of one run by name.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    params: &'a [Param],
    slots: &'a [i64],
}

impl<'a> Args<'a> {
    /// Arguments in the order of `params`; `slots` must have one value a slot.
    pub fn new(params: &'a [Param], slots: &'a [i64]) -> Args<'a> {
        debug_assert_eq!(signature(params).slots(), slots.len());
        Args { params, slots }
    }

    /// All slots, in the order of the parameters.
    pub fn slots(&self) -> &'a [i64] {
        self.slots
    }

    /// The integer of this name. A name that the template does not declare is a bug of the template: debug builds
    /// assert, release builds read 0.
    pub fn int(&self, name: &str) -> i64 {
        let mut at = 0;
        for p in self.params {
            if p.kind == SlotKind::Int && p.name == name {
                return self.slots[at];
            }
            at += p.kind.slots();
        }
        debug_assert!(false, "no parameter `{name}`");
        0
    }

    /// `name0, name1, …` as a list of `count` integers.
    pub fn ints(&self, name: &str, count: usize) -> Vec<i64> {
        (0..count)
            .map(|i| self.int(&format!("{name}{i}")))
            .collect()
    }

    /// Every integer with its name.
    pub fn iter_ints(&self) -> impl Iterator<Item = (&'a str, i64)> + '_ {
        let mut at = 0;
        self.params.iter().filter_map(move |p| {
            let here = at;
            at += p.kind.slots();
            (p.kind == SlotKind::Int).then(|| (p.name.as_str(), self.slots[here]))
        })
    }
}

/// Tile sizes, stages, threads: the constants of a variant that do not change its meaning. `THREADS` is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile(pub BTreeMap<&'static str, i64>);

impl Tile {
    /// A tile from its constants.
    pub fn new(constants: &[(&'static str, i64)]) -> Tile {
        Tile(constants.iter().copied().collect())
    }

    /// A constant; 0 if the tile does not have it.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// What a variant knows of an integer argument at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Baked {
    /// Its value.
    Exact(i64),
    /// A number that divides it.
    Multiple(i64),
}

/// What a template has to gain from knowing an integer argument at compile time. What it does not ask for stays an argument,
/// so that one kernel serves many steps and many shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Its value.
    Value,
    /// Whether it is 0 or 1, as a stride or a number of groups may be, and otherwise how far this number divides it.
    Unit(i64),
    /// How far this number divides it.
    Divisor(i64),
    /// Nothing.
    Nothing,
}

impl Want {
    /// The part of what is known that is wanted.
    fn of(self, known: Baked) -> Option<Baked> {
        let common = |divisor: i64, value: i64| {
            let (mut a, mut b) = (divisor.abs(), value.unsigned_abs() as i64);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            (a > 1).then_some(Baked::Multiple(a))
        };
        match (self, known) {
            (Want::Value, known) => Some(known),
            (Want::Unit(_), Baked::Exact(0 | 1)) => Some(known),
            (Want::Unit(d) | Want::Divisor(d), Baked::Exact(v) | Baked::Multiple(v)) => {
                common(d, v)
            }
            (Want::Nothing, _) => None,
        }
    }
}

/// Work of one run, for cost models and floors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Arithmetic operations.
    pub operations: f64,
    /// Bytes that must be moved through device memory: each operand read once, each result written once.
    pub bytes: f64,
    /// The arithmetic of operations on tensor cores; `None` where they run on plain arithmetic units.
    pub tensor_cores: Option<Products>,
}

impl Cost {
    /// The shortest time in which a device can do the work, in seconds.
    pub fn floor(&self, props: &DeviceProps) -> f64 {
        let rate = match self.tensor_cores {
            Some(products) => products.rate(props),
            None => props.f32_rate,
        };
        (self.operations / rate).max(self.bytes / props.bandwidth)
    }
}

/// A family of kernels with its options chosen; see the crate.
pub trait Template: Any + fmt::Debug + Send + Sync {
    /// Name of the family: the file in `/kernels` and the function in the cubin.
    fn name(&self) -> &'static str;

    /// Every option in a canonical, readable text. Equal texts mean equal kernels.
    fn describe(&self) -> String;

    /// The arguments, the same for every variant.
    fn params(&self) -> Vec<Param>;

    /// The text of the `.cu` file.
    fn body(&self) -> &'static str;

    /// Types, options and expressions that the body uses, as CUDA text.
    fn definitions(&self, props: &DeviceProps) -> String;

    /// Whether the body asks what is known to divide an integer argument, by its name with `_DIVISOR`.
    fn reads_divisors(&self) -> bool {
        false
    }

    /// What is to be gained from knowing an integer argument of a call like this one; the value, unless a template knows
    /// better.
    fn wants(&self, name: &str, args: &Args<'_>) -> Want {
        let _ = (name, args);
        Want::Value
    }

    /// Legal tiles for these arguments, the one with the least expected time first, never empty. Without arguments: the
    /// tiles of generic kernels, of which each serves every shape.
    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile>;

    /// Whether a kernel with this tile may take for granted what it needs to, given what is baked in; the runtime sees to it
    /// that tensors begin at multiples of 16 bytes. Every tile does, unless a template says otherwise; those of generic kernels
    /// always do.
    fn suits(&self, tile: &Tile, baked: &BTreeMap<String, Baked>) -> bool {
        let _ = (tile, baked);
        true
    }

    /// Which of the generic tiles suits a step best, as its place among them, given what an argument is at every shape, if that
    /// is one number. The first, unless a template knows better.
    fn generic_tile(&self, known: &dyn Fn(&str) -> Option<i64>) -> usize {
        let _ = known;
        0
    }

    /// What the template's cost model expects a tile to take, in seconds; `None` where it has no model, which is so unless
    /// it says otherwise.
    fn expected_seconds(&self, tile: &Tile, args: &Args<'_>, props: &DeviceProps) -> Option<f64> {
        let _ = (tile, args, props);
        None
    }

    /// Whether kernels of these two tiles add up every sum in the same order, and so agree bit for bit. Equal tiles do, and
    /// a template that knows no more says no more.
    fn same_sums(&self, a: &Tile, b: &Tile) -> bool {
        a == b
    }

    /// Geometry of a launch. Without arguments: a grid that fills the device and serves every shape.
    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig;

    /// The arithmetic of its products; `None` where it multiplies no matrices of floats for which there is a choice.
    fn products(&self) -> Option<Products> {
        None
    }

    /// Work of a run.
    fn cost(&self, args: &Args<'_>) -> Cost;

    /// The same computation on the host. Operands come in the order of the tensor parameters.
    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError>;
}

/// Whether an argument is known to be a multiple of this.
pub(crate) fn divides(baked: &BTreeMap<String, Baked>, name: &str, by: i64) -> bool {
    match baked.get(name) {
        Some(Baked::Exact(v) | Baked::Multiple(v)) => v % by == 0,
        None => false,
    }
}

/// One kernel: a template, a tile and what is baked in.
#[derive(Clone, Debug)]
pub struct KernelSpec {
    /// The family and its options.
    pub template: Arc<dyn Template>,
    /// Tile sizes.
    pub tile: Tile,
    /// Integer arguments known at compile time, by name.
    pub baked: BTreeMap<String, Baked>,
}

impl KernelSpec {
    /// The kernel that is right for every shape.
    pub fn generic(template: Arc<dyn Template>, props: &DeviceProps) -> KernelSpec {
        Self::generic_at(template, 0, props)
    }

    /// The same with the generic tile at this [place](Template::generic_tile), the last one if there are fewer.
    pub fn generic_at(
        template: Arc<dyn Template>,
        place: usize,
        props: &DeviceProps,
    ) -> KernelSpec {
        let mut tiles = template.tiles(None, props);
        tiles.truncate(place.saturating_add(1));
        let tile = tiles.pop();
        Self::with_tile(template, tile)
    }

    /// The kernel with the best tile for these arguments by the template's cost model. `baked` says what may be taken for
    /// granted of an integer argument, given its name and its value here; what the template wants to know of that is baked
    /// in, and the kernel is right for all arguments of which it holds.
    pub fn specialised(
        template: Arc<dyn Template>,
        args: &Args<'_>,
        baked: impl Fn(&str, i64) -> Option<Baked>,
        props: &DeviceProps,
    ) -> KernelSpec {
        let mut spec = KernelSpec {
            baked: args
                .iter_ints()
                .filter_map(|(n, v)| {
                    let wanted = template.wants(n, args).of(baked(n, v)?)?;
                    Some((n.to_owned(), wanted))
                })
                .collect(),
            ..Self::with_tile(template, None)
        };
        let best = spec.tiles(args, props).next();
        spec.tile = best.unwrap_or_default();
        spec
    }

    /// The tiles that this kernel may have with what is baked in, the one with the least expected time at these arguments
    /// first.
    pub fn tiles(
        &self,
        args: &Args<'_>,
        props: &DeviceProps,
    ) -> impl Iterator<Item = Tile> + use<'_> {
        let all = self.template.tiles(Some(args), props).into_iter();
        all.filter(|tile| self.template.suits(tile, &self.baked))
    }

    /// The kernel for exactly these arguments.
    pub fn exact(template: Arc<dyn Template>, args: &Args<'_>, props: &DeviceProps) -> KernelSpec {
        Self::specialised(template, args, |_, v| Some(Baked::Exact(v)), props)
    }

    /// The kernel that is right for every shape, with the tile that is best at these arguments.
    pub fn tuned(template: Arc<dyn Template>, args: &Args<'_>, props: &DeviceProps) -> KernelSpec {
        let mut spec = Self::with_tile(template, None);
        let best = spec.tiles(args, props).next();
        spec.tile = best.unwrap_or_default();
        spec
    }

    /// Nothing baked in.
    fn with_tile(template: Arc<dyn Template>, tile: Option<Tile>) -> KernelSpec {
        KernelSpec {
            template,
            tile: tile.unwrap_or_default(),
            baked: BTreeMap::new(),
        }
    }

    /// Whether the kernel is right for these arguments: whether all that is baked in holds of them.
    pub fn admits(&self, args: &Args<'_>) -> bool {
        args.iter_ints()
            .all(|(name, value)| match self.baked.get(name) {
                None => true,
                Some(Baked::Exact(v)) => value == *v,
                Some(Baked::Multiple(v)) => value % v == 0,
            })
    }

    /// Whether nothing is baked in.
    pub fn is_generic(&self) -> bool {
        self.baked.is_empty()
    }

    /// The CUDA source.
    pub fn source(&self, props: &DeviceProps) -> String {
        crate::source::assemble(self, props)
    }

    /// Name of the function in the cubin.
    pub fn entry(&self) -> String {
        format!("bespoke_{}", self.template.name())
    }

    /// The kernel as a device loads it.
    pub fn image(&self, cubin: Option<bytes::Bytes>) -> Image {
        Image {
            name: self.to_string(),
            entry: self.entry(),
            cubin,
            twin: Arc::new(TemplateTwin {
                template: self.template.clone(),
                params: self.template.params(),
            }),
            signature: signature(&self.template.params()),
        }
    }
}

impl fmt::Display for KernelSpec {
    /// `gemm f16 … | BM=128 BN=64 … | m=1536 n%8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} | {}",
            self.template.name(),
            self.template.describe(),
            self.tile
        )?;
        if !self.baked.is_empty() {
            f.write_str(" |")?;
        }
        for (name, baked) in &self.baked {
            match baked {
                Baked::Exact(v) => write!(f, " {name}={v}")?,
                Baked::Multiple(v) => write!(f, " {name}%{v}")?,
            }
        }
        Ok(())
    }
}

/// Runs a template's host side behind the device's interface.
#[derive(Debug)]
struct TemplateTwin {
    template: Arc<dyn Template>,
    params: Vec<Param>,
}

impl Twin for TemplateTwin {
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
        let args = Args::new(&self.params, call.slots);
        self.template.run(&args, &mut call.operands)
    }
}
