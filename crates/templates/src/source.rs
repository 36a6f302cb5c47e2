//! Assembles a kernel's source: prelude, tile constants, definitions, arguments, body.
//!
//! The text is all there is to a kernel, so its digest names it in the cache. It starts with the specification as a
//! comment and reads like a file that somebody wrote for exactly this case.

use std::fmt::Write as _;

use bespoke_device::{DeviceProps, SlotKind};
use bespoke_ir::DType;

use crate::spec::{Baked, KernelSpec, Param};

/// The text of these files of `/kernels`, one after the other, each but the last followed by `$between`.
macro_rules! kernel_text {
    ($between:literal; $first:expr $(, $rest:expr)*) => {
        concat!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/", $first)),
            $(
                $between,
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/", $rest)),
            )*
        )
    };
}
pub(crate) use kernel_text;

/// Helpers that every kernel may use.
pub(crate) const PRELUDE: &str = kernel_text!(""; "prelude.cuh");

/// The type of an element in memory, as the prelude names it.
pub fn cuda_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I8 => "signed char",
        DType::I16 => "short",
        DType::I32 => "int",
        DType::I64 => "long long",
        DType::U16 => "unsigned short",
        DType::U32 => "unsigned int",
        DType::U64 => "unsigned long long",
        // bool is one byte, 0 or 1
        _ => "unsigned char",
    }
}

/// The type in which elements are computed with: narrow floats widen to `float`.
pub fn cuda_compute_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 | DType::BF16 => "float",
        DType::Bool => "bool",
        other => cuda_type(other),
    }
}

pub(crate) fn assemble(spec: &KernelSpec, props: &DeviceProps) -> String {
    let mut out = String::new();
    let t = &spec.template;
    // writing to a String cannot fail
    let _ = writeln!(out, "// {spec}\n// for {}\n", props.arch);
    out.push_str(PRELUDE);
    let _ = writeln!(out, "\n// ---- this kernel ----\n");
    for (name, value) in &spec.tile.0 {
        let _ = writeln!(out, "#define {name} {value}");
    }
    // the runtime serves no other addresses with a specialised kernel
    let (known, aligned) = match spec.is_generic() {
        true => (0, "is_aligned<N>(p)"),
        false => (1, "true"),
    };
    let _ = writeln!(
        out,
        "#define KNOWN {known}\n#define IS_ALIGNED(N, p) {aligned}"
    );
    out.push_str(&t.definitions(props));
    out.push('\n');
    if t.reads_divisors() {
        out.push_str(&divisors(spec));
    }
    let blocks = spec.tile.get("BLOCKS").max(1);
    let of_cluster = ["SPLIT", "CLUSTER_M", "CLUSTER_N"].map(|name| spec.tile.get(name).max(1));
    let cluster = match of_cluster.iter().product() {
        1 => String::new(),
        blocks => format!("__cluster_dims__({blocks}, 1, 1) "),
    };
    // with the second bound the assembler does not spill to reach an occupancy of its own choice
    let _ = writeln!(
        out,
        "\n#define KERNEL extern \"C\" __global__ void {cluster}__launch_bounds__(THREADS, {blocks}) \\\n    {}(const long long* __restrict__ slots)",
        spec.entry()
    );
    out.push_str(&arguments(spec, props));
    out.push('\n');
    out.push_str(t.body());
    out
}

/// `#define NAME_DIVISOR`, one line an integer argument: a number that is known to divide it. It is 0 or 1 only for an
/// argument that is, and −1 where nothing is known, so that the preprocessor and constant expressions can ask.
fn divisors(spec: &KernelSpec) -> String {
    let mut out = String::new();
    for p in spec.template.params() {
        if p.kind != SlotKind::Int {
            continue;
        }
        let (Baked::Exact(divisor) | Baked::Multiple(divisor)) =
            spec.baked.get(&p.name).copied().unwrap_or(Baked::Exact(-1));
        // writing to a String cannot fail
        let _ = writeln!(out, "#define {}_DIVISOR {divisor}", p.name);
    }
    out
}

/// A grid of at most so many blocks lets the next kernel start at once. Blocks that only wait go where there is room now: with
/// a larger grid at work, several to a multiprocessor, and others would have none of them.
const EARLY_BLOCKS: u32 = 96;

/// Slots behind its own row that a kernel asks the level-2 cache for: those of the step that comes next in the list, which the
/// weights of a run have long driven out. Blocks of slots have so many more at their end.
pub const ROW_AHEAD: usize = 64;

/// The macro `ARGUMENTS`: one declaration an argument, in order.
///
/// Where kernels can be launched while the ones before them end, it then lets the next one start and waits for the ones
/// before; after a large grid, the next one starts as threads leave. The slots are written before a run, so they may be read
/// first, and those of the next step be asked for; nothing else may. That no read moves before the wait is seen to by the addresses, which come out of it. In a launch
/// that overlaps nothing all this does nothing. A tensor map is among the slots itself, and its address is all that is declared
/// of it.
fn arguments(spec: &KernelSpec, props: &DeviceProps) -> String {
    let waits = props.arch.has_dependent_launch();
    let mut out = String::new();
    if waits {
        out.push_str(
            "struct LetNextStart {\n    \
             __device__ __forceinline__ void now() const { asm volatile(\"griddepcontrol.launch_dependents;\" ::: \"memory\"); }\n    \
             __device__ __forceinline__ ~LetNextStart() { now(); }\n};\n",
        );
    }
    out.push_str("#define ARGUMENTS");
    let row: usize = spec.template.params().iter().map(|p| p.kind.slots()).sum();
    let _ = write!(
        out,
        " \\\n    if (blockIdx.x == 0 && threadIdx.x < {}) asm volatile(\"prefetch.global.L2 [%0];\" :: \
         \"l\"(__cvta_generic_to_global(slots + {row} + threadIdx.x * 16)));",
        ROW_AHEAD / 16
    );
    let (mut waited, mut slot) = (Vec::new(), 0);
    for p in spec.template.params() {
        let line = match p.dtype {
            _ if matches!(p.kind, SlotKind::Map(_)) => {
                format!("const void* const {} = slots + {slot};", p.name)
            }
            Some(_) if waits => {
                let address = format!("{}_address", p.name);
                waited.push(format!(
                    "asm volatile(\"\" : \"+l\"({address}) :: \"memory\");"
                ));
                waited.push(pointer(&p, &address));
                format!("long long {address} = slots[{slot}];")
            }
            Some(_) => pointer(&p, &format!("slots[{slot}]")),
            None => {
                let ty = if p.wide { "long long" } else { "int" };
                match spec.baked.get(&p.name) {
                    Some(Baked::Exact(v)) => format!("constexpr {ty} {} = {v};", p.name),
                    Some(Baked::Multiple(v)) => format!(
                        "const {ty} {0} = ({ty})slots[{slot}]; __builtin_assume({0} % {v} == 0);",
                        p.name
                    ),
                    None => format!("const {ty} {} = ({ty})slots[{slot}];", p.name),
                }
            }
        };
        let _ = write!(out, " \\\n    {line}");
        slot += p.kind.slots();
    }
    if waits {
        let _ = write!(
            out,
            " \\\n    const LetNextStart next; \\\n    if (gridDim.x * gridDim.y * gridDim.z <= {EARLY_BLOCKS}) \
             next.now(); \\\n    asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");"
        );
    }
    for line in waited {
        let _ = write!(out, " \\\n    {line}");
    }
    out.push('\n');
    out
}

/// The declaration of a tensor at an address.
fn pointer(p: &Param, address: &str) -> String {
    let ty = p.dtype.map_or("void", cuda_type);
    let constant = if p.kind == SlotKind::Read {
        "const "
    } else {
        ""
    };
    format!(
        "{constant}{ty}* const __restrict__ {} = ({constant}{ty}*){address};",
        p.name
    )
}

#[cfg(test)]
mod tests {
    use bespoke_device::Arch;

    use super::*;
    use crate::sample::Rng;

    #[test]
    fn what_is_known_of_an_integer_is_a_divisor() {
        let props = DeviceProps::preset(Arch::sm(90));
        for sample in crate::gemm::samples(&mut Rng::new(3)) {
            let params = sample.template.params();
            let row = sample.row();
            let args = crate::Args::new(&params, &row);
            let exact = KernelSpec::exact(sample.template.clone(), &args, &props);
            let generic = KernelSpec::generic(sample.template.clone(), &props);
            let (source, open) = (exact.source(&props), generic.source(&props));
            for (name, value) in args.iter_ints() {
                assert!(open.contains(&format!("#define {name}_DIVISOR -1\n")));
                let prefix = format!("#define {name}_DIVISOR ");
                let line = source.lines().find_map(|l| l.strip_prefix(&prefix));
                let divisor: i64 = line.unwrap().parse().unwrap();
                match divisor {
                    0 => assert_eq!(value, 0, "{name}"),
                    d => assert_eq!(value % d, 0, "{name}"),
                }
                assert!(divisor != 1 || value == 1, "{name} is {value}");
            }
        }
    }

    #[test]
    fn a_kernel_waits_before_it_has_the_address_of_a_tensor() {
        let mut rng = Rng::new(3);
        let mut samples = crate::gemm::samples(&mut rng);
        samples.extend(crate::pointwise::samples(&mut rng));
        samples.extend(crate::topk::samples(&mut rng));
        for sample in samples {
            let source = |number| {
                let props = DeviceProps::preset(Arch::sm(number));
                KernelSpec::generic(sample.template.clone(), &props).source(&props)
            };
            assert!(!source(89).contains("griddepcontrol"));
            let text = source(90);
            let (before, after) = text.split_once("griddepcontrol.wait").unwrap();
            assert!(before.contains("~LetNextStart() { now(); }"));
            assert!(before.contains("const LetNextStart next;") && before.contains("next.now();"));
            for p in sample
                .template
                .params()
                .iter()
                .filter(|p| p.dtype.is_some())
            {
                let declared = format!("* const __restrict__ {} =", p.name);
                assert!(
                    !before.contains(&declared) && after.contains(&declared),
                    "{declared}"
                );
            }
        }
    }

    #[test]
    fn a_tensor_map_is_an_address_among_the_slots() {
        use bespoke_ir::expr::Expr;
        let gemm = crate::gemm::Gemm {
            batch: 0,
            a: DType::F16,
            b: DType::F16,
            sums: 1,
            products: crate::Products::Exact,
            epilogue: Expr::identity(DType::F32),
        };
        let props = DeviceProps::preset(Arch::sm(90));
        let text = KernelSpec::generic(std::sync::Arc::new(gemm), &props).source(&props);
        let start = text.find("#define ARGUMENTS").unwrap();
        let lines: Vec<&str> = text[start..].lines().take(6).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "#define ARGUMENTS \\",
                "if (blockIdx.x == 0 && threadIdx.x < 4) asm volatile(\"prefetch.global.L2 [%0];\" :: \"l\"(__cvta_generic_to_global(slots + 50 + threadIdx.x * 16))); \\",
                "const void* const a_map = slots + 0; \\",
                "const void* const b_map = slots + 16; \\",
                "const int m = (int)slots[32]; \\",
                "const int n = (int)slots[33]; \\",
            ]
        );
        // nothing is known of a map
        assert!(!text.contains("a_map_DIVISOR"));
    }
}
