//! Plans of products that were split: no weight is stored twice, and each part's work goes where it is read.

use bespoke_ir::op::{Concat, Map, MatMul, Slice, Softmax};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_plan::{Arg, Place, Plan};

const DEPTH: i64 = 128;
const WIDTHS: [i64; 2] = [2304, 3072];

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count = dims.iter().product::<i64>() as usize;
    // no two neighbours are equal, so that nothing is folded into a number
    let bytes: Vec<u8> = (0..count).flat_map(|i| [(i % 47) as u8, 0x2c]).collect();
    let c = Constant::new(DType::F16, dims.to_vec(), bytes.into()).unwrap();
    g.add_constant(name, c)
}

fn cut(g: &mut Graph, name: &str, v: ValueId, axis: usize, start: i64, extent: i64) -> ValueId {
    let mut dims = g.dims(v).to_vec();
    let mut starts = vec![SymInt::constant(0); dims.len()];
    starts[axis] = start.into();
    dims[axis] = extent.into();
    let slice = Slice {
        starts,
        steps: vec![1; dims.len()],
        dims,
    };
    g.add1(name, slice, &[v]).unwrap()
}

/// A product with a bias, half of whose columns have an activation before both halves meet in the next product. Its
/// weights lie along the reduction, as the planner stores them, or across.
fn block(along: bool) -> Graph {
    let mut g = Graph::new("block");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F16, vec![n, DEPTH.into()]));
    let all = WIDTHS[0] + WIDTHS[1];
    let dims = if along { [all, DEPTH] } else { [DEPTH, all] };
    let w = constant(&mut g, "w", &dims);
    let op = MatMul {
        transpose_a: false,
        transpose_b: along,
    };
    let v = g.add1("wide", op, &[x, w]).unwrap();
    let bias = constant(&mut g, "bias", &[all]);
    let add = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
    let v = g.add1("biased", add, &[v, bias]).unwrap();
    let a = cut(&mut g, "a", v, 1, 0, WIDTHS[0]);
    let b = cut(&mut g, "b", v, 1, WIDTHS[0], WIDTHS[1]);
    let softmax = Softmax {
        axis: 1,
        log: false,
    };
    let a = g.add1("soft", softmax, &[a]).unwrap();
    let tanh = Map::new(Expr::unary(UnaryOp::Tanh, DType::F16));
    let b = g.add1("act", tanh, &[b]).unwrap();
    let v = g.add1("both", Concat { axis: 1 }, &[a, b]).unwrap();
    let w = constant(&mut g, "out", &[64, all]);
    let op = MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    let y = g.add1("y", op, &[v, w]).unwrap();
    g.add_output(y);
    bespoke_passes::canonicalize(&mut g).unwrap();
    g
}

fn plan(g: &Graph) -> Plan {
    let plan = bespoke_plan::plan(g).unwrap();
    bespoke_plan::verify::verify(&plan).unwrap();
    let bound = plan.bind(&[&[7, DEPTH]]).unwrap();
    bespoke_plan::verify::verify_memory(&plan, &bound).unwrap();
    plan
}

/// Elements of the weights that steps of a run read, each buffer once.
fn weights(plan: &Plan) -> i64 {
    let mut read: Vec<u32> = Vec::new();
    for arg in plan.steps.iter().flat_map(|s| &s.args) {
        if let Arg::Read(b) = arg {
            read.push(b.0);
        }
    }
    read.sort_unstable();
    read.dedup();
    let buffers = read.iter().map(|b| &plan.buffers[*b as usize]);
    buffers
        .filter(|b| matches!(b.place, Place::Constant(_) | Place::Persistent))
        .map(|b| plan.exprs[b.bytes.0 as usize].as_const().unwrap() / 2)
        .sum()
}

#[test]
fn parts_of_a_weight_are_views_of_it() {
    let all = WIDTHS[0] + WIDTHS[1];
    for (along, copies) in [(true, 0), (false, 1)] {
        let plan = plan(&block(along));
        assert_eq!(plan.setup.len(), copies, "{plan}");
        assert_eq!(weights(&plan), all * DEPTH + all + all * 64, "{plan}");
        assert_eq!(plan.copy_count(), 0, "{plan}");
    }
    insta::assert_snapshot!(plan(&block(false)));
}

#[test]
fn a_part_of_a_weight_that_is_read_alone_is_stored_alone() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", TensorType::fixed(DType::F16, &[9, DEPTH]));
    let w = constant(&mut g, "w", &[DEPTH, 4096]);
    let w = cut(&mut g, "part", w, 1, 1024, 1024);
    let y = g.add1("y", MatMul::default(), &[x, w]).unwrap();
    g.add_output(y);
    let plan = bespoke_plan::plan(&g).unwrap();
    assert_eq!(weights(&plan), DEPTH * 1024, "{plan}");
}
