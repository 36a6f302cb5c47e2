//! What reductions, softmax, normalisation and scans share: a space of outer and inner axes, whose rows (one an outer
//! position) are the business of one group of threads each.
//!
//! Here are the macros that the kernels' `rows.cuh` expects, and the choice of group sizes.

use std::fmt::Write as _;

use bespoke_device::{DeviceProps, LaunchConfig};
use bespoke_ir::DType;

use crate::expr::cuda;
use crate::grid;
use crate::source::{cuda_compute_type, cuda_type};
use crate::spec::{Args, Tile};
use crate::view;

/// The space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) outer: usize,
    pub(crate) inner: usize,
}

impl Rows {
    pub(crate) fn rank(self) -> usize {
        self.outer + self.inner
    }

    /// Number of rows.
    pub(crate) fn rows(self, args: &Args<'_>) -> i64 {
        args.ints("d", self.outer)
            .iter()
            .map(|&d| d.max(0))
            .product()
    }

    /// Elements of a row.
    pub(crate) fn columns(self, args: &Args<'_>) -> i64 {
        args.ints("d", self.rank())[self.outer..]
            .iter()
            .map(|&d| d.max(0))
            .product()
    }

    /// `ROWS`, `COLUMNS`, `OUTER` with the bases of these views, and `INNER`.
    ///
    /// `bases` are (name, pointer type) of tensors; each gets `name_p`, the address of the row's first element.
    pub(crate) fn space(self, bases: &[(String, String)]) -> String {
        let product = |range: std::ops::Range<usize>| -> String {
            range
                .map(|a| format!(" * d{a}"))
                .collect::<Vec<_>>()
                .concat()
        };
        let mut out = format!(
            "#define ROWS (1ll{})\n#define COLUMNS (1ll{})\n#define OUTER long long rest = row;",
            product(0..self.outer),
            product(self.outer..self.rank())
        );
        // writing to a String cannot fail
        for a in (0..self.outer).rev() {
            let _ = match a {
                0 => write!(out, " const long long i0 = rest;"),
                _ => write!(out, " const long long i{a} = take(rest, d{a});"),
            };
        }
        for (name, ty) in bases {
            let vars: Vec<String> = (0..self.outer).map(|a| format!("i{a}")).collect();
            let vars: Vec<&str> = vars.iter().map(String::as_str).collect();
            let _ = write!(
                out,
                " \\\n    {ty}* const {name}_p = {name} + ({});",
                view::cuda_index(name, &vars)
            );
        }
        out.push_str("\n#define INNER");
        match self.inner {
            0 => {}
            1 => {
                let _ = write!(out, " const long long i{} = item * V;", self.outer);
            }
            _ => {
                let last = self.rank() - 1;
                let _ = write!(
                    out,
                    " auto within = item; const long long i{last} = take(within, d{last} / V) * V;"
                );
                for a in (self.outer..last).rev() {
                    let _ = match a == self.outer {
                        true => write!(out, " const long long i{a} = within;"),
                        false => write!(out, " const long long i{a} = take(within, d{a});"),
                    };
                }
            }
        }
        out.push('\n');
        out
    }

    /// Offset of an element within its row.
    pub(crate) fn within(self, name: &str) -> String {
        let terms: Vec<String> = (self.outer..self.rank())
            .map(|a| format!("i{a} * {name}_s{a}"))
            .collect();
        if terms.is_empty() {
            "0".to_owned()
        } else {
            terms.join(" + ")
        }
    }

    /// `macro_name`: loads of these operands into packs `name_v`.
    pub(crate) fn fetches(self, macro_name: &str, prefix: &str, types: &[DType]) -> String {
        let mut out = format!("#define {macro_name}");
        for (i, &ty) in types.iter().enumerate() {
            let name = format!("{prefix}{i}");
            let stride = self.last_stride(&name);
            let _ = write!(
                out,
                " \\\n    Pack<{}, V> {name}_v; fetch({name}_v, {name}_p + ({}), {stride});",
                cuda_type(ty),
                self.within(&name)
            );
        }
        out.push('\n');
        out
    }

    fn last_stride(self, name: &str) -> String {
        if self.inner == 0 {
            "0".to_owned()
        } else {
            format!("{name}_s{}", self.rank() - 1)
        }
    }

    /// Values of operands in packs, for [`cuda::call`].
    pub(crate) fn packed_values(prefix: &str, types: &[DType]) -> Vec<String> {
        types
            .iter()
            .enumerate()
            .map(|(i, ty)| cuda::load(*ty, &format!("{prefix}{i}_v.at"), "v"))
            .collect()
    }

    /// The variable that holds the coordinate of an axis at lane `v` of a pack.
    pub(crate) fn coordinate(self, axis: u32) -> String {
        if self.inner > 0 && axis as usize == self.rank() - 1 {
            format!("i{axis} + v")
        } else {
            format!("i{axis}")
        }
    }

    /// `VECTORS` for operands that may be broadcast and results that may not: whether VEC elements, which the tile says,
    /// move in one instruction.
    pub(crate) fn vectors(self, reads: &[(String, DType)], writes: &[(String, DType)]) -> String {
        let widest = reads
            .iter()
            .chain(writes)
            .filter_map(|t| t.1.size())
            .max()
            .unwrap_or(4);
        let vector = (16 / widest).clamp(1, 8);
        let mut out = "#define VECTORS (".to_owned();
        if self.inner == 0 || vector == 1 {
            out.push_str("false)\n");
            return out;
        }
        let last = self.rank() - 1;
        let _ = write!(out, "d{last} % VEC == 0");
        for (name, _) in reads {
            let _ = write!(
                out,
                " \\\n    && ({name}_s{last} == 0 || ({name}_s{last} == 1{}))",
                aligned(name, last)
            );
        }
        for (name, _) in writes {
            let _ = write!(
                out,
                " \\\n    && {name}_s{last} == 1{}",
                aligned(name, last)
            );
        }
        out.push_str(")\n");
        out
    }

    /// The space of scans and searches along one axis: `LOAD(i)`, element `i` of the row of operand `name`, the bases of
    /// the results, and the type P in which elements are computed.
    pub(crate) fn row_operand(self, name: &str, dtype: DType, results: &[(&str, DType)]) -> String {
        let mut bases = vec![(name.to_owned(), format!("const {}", cuda_type(dtype)))];
        bases.extend(
            results
                .iter()
                .map(|&(name, ty)| (name.to_owned(), cuda_type(ty).to_owned())),
        );
        let mut out = self.space(&bases);
        let element = cuda::load(
            dtype,
            &format!("{name}_p"),
            &format!("(i) * {name}_s{}", self.outer),
        );
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "#define LOAD(i) {element}\ntypedef {} P;",
            cuda_compute_type(dtype)
        );
        out
    }

    /// Threads of a group for rows of so many elements, `per_thread` to a thread.
    fn group(columns: i64, per_thread: i64) -> i64 {
        let wanted = ((columns + per_thread - 1) / per_thread.max(1)).max(1) as u64;
        (wanted.next_power_of_two() as i64).clamp(1, 1024)
    }

    /// Elements that move in one instruction: at most `vector`, and as many as divide the last axis and, where its elements
    /// lie next to each other, every step to the beginning of another run of them.
    fn width(self, args: &Args<'_>, names: &[String], vector: i64) -> i64 {
        let Some(last) = self.rank().checked_sub(1).filter(|_| self.inner > 0) else {
            return vector;
        };
        let mut width = vector.max(1);
        let mut fit = |value: i64| {
            while value % width != 0 {
                width /= 2;
            }
        };
        fit(args.int(&format!("d{last}")));
        for name in names {
            let strides = args.ints(&format!("{name}_s"), self.rank());
            if strides[last] == 1 {
                fit(args.int(&format!("{name}_o")));
                strides[..last].iter().copied().for_each(&mut fit);
            }
        }
        width
    }

    /// Tiles for rows whose operands `names` each thread reads `vector` elements at a time, if their strides allow it, and
    /// of which `kept` stay in registers.
    pub(crate) fn tiles(
        self,
        args: Option<&Args<'_>>,
        names: &[String],
        vector: i64,
        kept: Kept,
        props: &DeviceProps,
    ) -> Vec<Tile> {
        let items = kept.packs;
        let vector = args.map_or(vector, |a| self.width(a, names, vector));
        let lead = names.first().map(String::as_str);
        let tile = |group: i64, apart: bool, items: i64| {
            let threads = group.max(if apart { 256 } else { 128 });
            let mut constants = vec![
                ("THREADS", threads),
                ("GROUP", group),
                ("APART", i64::from(apart)),
                ("VEC", vector),
            ];
            if items > 0 {
                constants.push(("ITEMS", items));
            }
            Tile::new(&constants)
        };
        let Some(args) = args else {
            return if items > 0 {
                vec![tile(128, false, 4)]
            } else {
                vec![tile(32, false, 0)]
            };
        };
        let (rows, columns) = (self.rows(args), self.columns(args));
        // rows side by side: the last outer axis is the one that is contiguous
        let stride = |axis: Option<usize>| match (axis, lead) {
            (Some(a), Some(name)) => args.int(&format!("{name}_s{a}")),
            _ => 1,
        };
        let last = self.rank().checked_sub(1).filter(|_| self.inner > 0);
        let side_by_side = self.outer > 0
            && stride(last) != 1
            && stride(Some(self.outer - 1)) == 1
            && args.int(&format!("d{}", self.outer - 1)) >= 8;
        let mut tiles = Vec::new();
        if side_by_side {
            // a few threads for each row, more where there are few rows
            let per_sm = rows / i64::from(props.multiprocessors).max(1);
            let group = if per_sm >= 1024 {
                1
            } else if per_sm >= 128 {
                8
            } else {
                32
            };
            let group = group.min(Rows::group(columns, 1)).min(256 / 8);
            tiles.push(tile(group, true, items.min(4)));
            tiles.push(tile(1, true, items.min(1)));
            return tiles;
        }
        let contiguous = stride(last) == 1;
        let width = if contiguous { vector } else { 1 };
        // enough threads that a row is read with a few loads each; all there are where rows are few
        let few = rows < i64::from(props.multiprocessors) * 2;
        let per_thread = if few { width } else { width * 4 };
        let group =
            Rows::group(columns, per_thread).max(if columns >= 32 * width { 32 } else { 1 });
        // a tile that keeps a row in at most so many registers of its threads, if it fits
        let keeping = |group: i64, split: i64, registers: i64| {
            let threads = (group * split).max(1);
            let packs = ((columns / width + threads - 1) / threads).max(1);
            let elements = packs * width;
            let wide = elements * kept.registers;
            if packs > MOST_PACKS || wide > registers * kept.a_register {
                return None;
            }
            let mut t = tile(group, false, packs);
            if wide > registers {
                t.0.insert("AS_READ", 1);
            }
            Some(t)
        };
        // a row that does not fit streams, and needs no registers at all
        let streaming = |group: i64| tile(group, false, items.min(1));
        if items > 0
            && let Some((group, split)) = shared(rows, columns, width, props)
        {
            // two blocks on a multiprocessor, if there are registers left for that
            let two = keeping(group, split, 24).map(|mut t| {
                t.0.insert("BLOCKS", 2);
                t
            });
            let one = || keeping(group, split, 48);
            let mut t = two.or_else(one).unwrap_or_else(|| streaming(group));
            t.0.insert("SPLIT", split);
            tiles.push(t);
        }
        // a block of 1024 threads has fewer registers for each, and narrow packs need more of them for their positions
        let most = |group: i64| match group {
            ..1024 => 32,
            _ if width >= 8 => 24,
            _ => 16,
        };
        for g in [group, (group * 2).min(1024), (group / 2).max(1)] {
            let kept = keeping(g, 1, most(g)).filter(|_| items > 0);
            let t = kept.unwrap_or_else(|| streaming(g));
            if !tiles.contains(&t) {
                tiles.push(t);
            }
        }
        tiles
    }

    /// Geometry of a launch of such a tile.
    pub(crate) fn geometry(
        self,
        tile: &Tile,
        args: Option<&Args<'_>>,
        props: &DeviceProps,
    ) -> LaunchConfig {
        let threads = tile.get("THREADS").max(1);
        let groups = (threads / tile.get("GROUP").max(1)).max(1);
        let mut launch = grid::launch(
            args.map(|a| self.rows(a)),
            groups,
            threads,
            grid::MANY,
            props,
        );
        launch.grid[0] *= tile.get("SPLIT").max(1) as u32;
        launch
    }
}

/// What a thread may keep of its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Packs in the registers of generic kernels; with 0, no kernel keeps any.
    packs: i64,
    /// Elements in a register at most.
    a_register: i64,
    /// Registers of an element of the accumulator's type.
    registers: i64,
}

impl Kept {
    /// Nothing.
    pub(crate) const NONE: Kept = Kept::packs(0, false);
    /// Elements in the accumulator's type.
    pub(crate) const WIDE: Kept = Kept::packs(4, false);
    /// The same, or two in a register as they lie in memory.
    pub(crate) const NARROW: Kept = Kept::packs(4, true);

    const fn packs(packs: i64, narrow: bool) -> Kept {
        let a_register = if narrow { 2 } else { 1 };
        Kept {
            packs,
            a_register,
            registers: 1,
        }
    }

    /// The same for rows that are computed in this type.
    pub(crate) fn of(self, dtype: DType) -> Kept {
        let registers = if dtype == DType::F64 { 2 } else { 1 };
        Kept { registers, ..self }
    }
}

/// Packs of a thread at most: each is code of its own.
const MOST_PACKS: i64 = 32;

/// Threads of a block and blocks of a cluster for rows so few that most multiprocessors would have none, and so long that
/// blocks gain more than they lose by meeting, which takes a microsecond or two.
fn shared(rows: i64, columns: i64, width: i64, props: &DeviceProps) -> Option<(i64, i64)> {
    const THREADS: i64 = 512;
    // for each thread
    const PACKS: i64 = 2;
    // blocks: with more, rows of a block of their own were seen to be faster
    const PAIRED: i64 = 132;
    const CLUSTERED: i64 = 64;
    let room = 2 * i64::from(props.multiprocessors);
    let fits = |s: &i64| {
        let most = if *s > 2 { CLUSTERED } else { PAIRED };
        rows.saturating_mul(*s) <= room.min(most) && columns >= s * THREADS * PACKS * width
    };
    let split = [8, 4, 2].into_iter().find(fits)?;
    (rows > 0 && props.arch.has_clusters()).then_some((THREADS, split))
}

/// Names and types of numbered operands.
pub(crate) fn names(prefix: &str, types: &[DType]) -> Vec<(String, DType)> {
    types
        .iter()
        .enumerate()
        .map(|(i, &ty)| (format!("{prefix}{i}"), ty))
        .collect()
}

/// CUDA text of the conditions under which rows of a view with stride 1 start at whole vectors; `last` is the vector's axis.
pub(crate) fn aligned(name: &str, last: usize) -> String {
    let mut text = format!(" && STARTS_WHOLE({name}, {name}_o)");
    for a in 0..last {
        let _ = write!(text, " && {name}_s{a} % VEC == 0");
    }
    text
}

/// Functions of the reals in the accumulator's type, as precise as results of this type can show.
pub(crate) fn reals(dtype: DType) -> String {
    let (ty, exp, log, root, infinity) = match dtype {
        DType::F64 => (
            "double",
            "exp",
            "log",
            "rsqrt",
            "__longlong_as_double(0x7ff0000000000000ll)",
        ),
        DType::F16 | DType::BF16 => (
            "float",
            "quick_exp",
            "__logf",
            "rsqrtf",
            "__int_as_float(0x7f800000)",
        ),
        _ => (
            "float",
            "expf",
            "logf",
            "rsqrtf",
            "__int_as_float(0x7f800000)",
        ),
    };
    let mut out = format!("#define INFINITE {infinity}\n");
    for (name, function) in [
        ("exponential", exp),
        ("logarithm", log),
        ("reciprocal_root", root),
    ] {
        let _ = writeln!(
            out,
            "__device__ __forceinline__ {ty} {name}({ty} x) {{ return {function}(x); }}"
        );
    }
    out
}
