//! Plans of gated layers: one step, no result of all columns, and each weight stored once.

use bespoke_ir::expr::ExprBuilder;
use bespoke_ir::op::{Map, MatMul, Slice};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_plan::{Arg, Place, Plan};

/// So large that no weight is folded.
const DEPTH: i64 = 512;
const WIDTH: i64 = 192;

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count = dims.iter().product::<i64>() as usize;
    let first = g.value_bound();
    // no two neighbours and no two tensors are equal, so that nothing is folded into a number or another tensor
    let bytes: Vec<u8> = (first..first + count)
        .flat_map(|i| [(i % 47) as u8, 0x2c])
        .collect();
    let c = Constant::new(DType::F16, dims.to_vec(), bytes.into()).unwrap();
    g.add_constant(name, c)
}

fn product(g: &mut Graph, name: &str, x: ValueId, w: ValueId) -> ValueId {
    g.add1(name, MatMul::default(), &[x, w]).unwrap()
}

fn add(g: &mut Graph, name: &str, a: ValueId, b: ValueId) -> ValueId {
    let map = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
    g.add1(name, map, &[a, b]).unwrap()
}

/// Every `step`-th column from `start` on, `WIDTH` of them.
fn cut(g: &mut Graph, name: &str, v: ValueId, start: i64, step: i64) -> ValueId {
    let mut dims = g.dims(v).to_vec();
    let last = dims.len() - 1;
    let (mut starts, mut steps) = (vec![SymInt::constant(0); dims.len()], vec![1; dims.len()]);
    (starts[last], steps[last], dims[last]) = (start.into(), step, WIDTH.into());
    let slice = Slice {
        starts,
        steps,
        dims,
    };
    g.add1(name, slice, &[v]).unwrap()
}

/// `sigmoid(x0)·x1`, plus the column if `coords`.
fn gate(g: &mut Graph, a: ValueId, b: ValueId, coords: bool) -> ValueId {
    let mut e = ExprBuilder::new(&[DType::F16, DType::F16]);
    let (x, y) = (e.input(0), e.input(1));
    let x = e.unary(UnaryOp::Sigmoid, x);
    let mut r = e.binary(BinaryOp::Mul, x, y);
    if coords {
        let column = e.coord(1);
        let column = e.cast(DType::F16, column);
        r = e.binary(BinaryOp::Add, r, column);
    }
    g.add1("gated", Map::new(e.finish(r)), &[a, b]).unwrap()
}

fn start() -> (Graph, ValueId) {
    let mut g = Graph::new("gated");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let x = g.add_input("x", TensorType::new(DType::F16, vec![n, DEPTH.into()]));
    (g, x)
}

fn plan(g: &Graph) -> Plan {
    let plan = bespoke_plan::plan(g).unwrap();
    bespoke_plan::verify::verify(&plan).unwrap();
    let bound = plan.bind(&[&[7, DEPTH]]).unwrap();
    bespoke_plan::verify::verify_memory(&plan, &bound).unwrap();
    plan
}

/// Elements of constants and what is made of them that steps of a run read, each buffer once.
fn weights(plan: &Plan) -> i64 {
    let args = plan.steps.iter().flat_map(|s| &s.args);
    let mut read: Vec<u32> = args
        .filter_map(|arg| match arg {
            Arg::Read(b) => Some(b.0),
            _ => None,
        })
        .collect();
    read.sort_unstable();
    read.dedup();
    let buffers = read.iter().map(|b| &plan.buffers[*b as usize]);
    buffers
        .filter(|b| matches!(b.place, Place::Constant(_) | Place::Persistent))
        .map(|b| plan.exprs[b.bytes.0 as usize].as_const().unwrap() / 2)
        .sum()
}

/// Two weights, and a residual and a conversion behind the gate.
#[test]
fn two_products_and_what_is_behind_their_gate_are_a_step() {
    let (mut g, x) = start();
    let (a, b) = (
        constant(&mut g, "w_gate", &[DEPTH, WIDTH]),
        constant(&mut g, "w_up", &[DEPTH, WIDTH]),
    );
    let (a, b) = (product(&mut g, "gate", x, a), product(&mut g, "up", x, b));
    let y = gate(&mut g, a, b, false);
    let residual = constant(&mut g, "row", &[WIDTH]);
    let y = add(&mut g, "sum", y, residual);
    let cast = Map::new(Expr::cast(DType::F16, DType::F32));
    let y = g.add1("wide", cast, &[y]).unwrap();
    g.add_output(y);
    bespoke_passes::canonicalize(&mut g).unwrap();
    let plan = plan(&g);
    assert_eq!(weights(&plan), 2 * WIDTH * DEPTH + WIDTH, "{plan}");
    insta::assert_snapshot!(plan, @r"
    plan gated
      setup w_gate:f16 = pointwise(w_gate:f16) rank=2 (f16) -> f16 = x0 d0=192 d1=512 copy  ; w_gate
      setup w_gate:f16 = pointwise(w_up:f16) rank=2 (f16) -> f16 = x0 d0=192 d1=512 copy  ; w_gate
      out0 = gemm(in0, w_gate:f16, row:f16) batch 0 f16xf16 2 sums (f16, f16, f16) -> f32 f32(add(mul(sigmoid(x0), x1), x2)) m=N n=384 k=512  ; gate
    ");
}

/// One weight, a bias in front of the gate, and another product that waits for a sum of both.
#[test]
fn halves_of_one_product_with_a_bias_are_a_step() {
    let (mut g, x) = start();
    let w = constant(&mut g, "w", &[DEPTH, 2 * WIDTH]);
    let y = product(&mut g, "both", x, w);
    let bias = constant(&mut g, "bias", &[2 * WIDTH]);
    let y = add(&mut g, "biased", y, bias);
    let (up, g1) = (cut(&mut g, "up", y, 0, 1), cut(&mut g, "gate", y, WIDTH, 1));
    let y = gate(&mut g, g1, up, false);
    let other = constant(&mut g, "other", &[DEPTH, WIDTH]);
    let other = product(&mut g, "other", x, other);
    let y = add(&mut g, "sum", y, other);
    g.add_output(y);
    bespoke_passes::canonicalize(&mut g).unwrap();
    let plan = plan(&g);
    assert_eq!(weights(&plan), 3 * WIDTH * DEPTH + 2 * WIDTH, "{plan}");
    insta::assert_snapshot!(plan, @r"
    plan gated
      setup w:f16 = pointwise(w:f16) rank=2 (f16) -> f16 = x0 d0=192 d1=512 copy  ; w
      setup w:f16 = pointwise(w:f16) rank=2 (f16) -> f16 = x0 d0=192 d1=512 copy  ; w
      setup other:f16 = pointwise(other:f16) rank=2 (f16) -> f16 = x0 d0=192 d1=512 copy  ; other
      %6 = gemm(in0, other:f16) batch 0 f16xf16 (f16) -> f16 x0 m=N n=192 k=512  ; other
      out0 = gemm(in0, w:f16, %6, bias:f16, bias:f16) batch 0 f16xf16 2 sums (f16, f16, f16, f16, f16) -> f16 add(mul(sigmoid(add(x0, x3)), add(x1, x4)), x2) m=N n=384 k=512  ; both
    ");
}

/// Columns that are no pairs, or whose map cannot be an epilogue, are read by a step of its own.
#[test]
fn what_cannot_join_reads_the_columns() {
    // every other column, and what the others are; a map that counts columns; two maps; a half that leaves the model
    for case in 0..4 {
        let (mut g, x) = start();
        let w = constant(&mut g, "w", &[DEPTH, 2 * WIDTH]);
        let y = product(&mut g, "both", x, w);
        let a = cut(&mut g, "even", y, 0, 2);
        let b = match case {
            0 => cut(&mut g, "late", y, WIDTH, 1),
            _ => cut(&mut g, "odd", y, 1, 2),
        };
        let z = gate(&mut g, a, b, case == 1);
        g.add_output(z);
        match case {
            2 => {
                let z = gate(&mut g, b, a, false);
                g.add_output(z);
            }
            3 => g.add_output(a),
            _ => {}
        }
        let plan = plan(&g);
        let text = plan.to_string();
        assert!(
            text.contains("pointwise") && !text.contains("2 sums"),
            "case {case}: {text}"
        );
    }
}
