//! Plans in which a sum is normalised and read again: where it would be a step of its own, the normalisation stores it.

use bespoke_ir::op::{Concat, Map, MatMul, Normalize, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_plan::Plan;

/// Number of columns where it does not matter.
const WIDTH: i64 = 64;

/// A graph in the making; everything is in halves.
struct Model(Graph);

impl Model {
    fn new() -> Model {
        Model(Graph::new("model"))
    }

    /// An input of `N` rows.
    fn rows(&mut self, name: &str, width: i64) -> ValueId {
        let n = match self.0.inputs().first() {
            Some(&x) => self.0.dims(x)[0].clone(),
            None => {
                let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
                SymInt::symbol(self.0.symbols.add(Symbol::new("N", origin)))
            }
        };
        self.input(name, vec![n, width.into()])
    }

    fn input(&mut self, name: &str, dims: Vec<SymInt>) -> ValueId {
        self.0.add_input(name, TensorType::new(DType::F16, dims))
    }

    fn map(&mut self, name: &str, expr: Expr, operands: &[ValueId]) -> ValueId {
        self.0.add1(name, Map::new(expr), operands).unwrap()
    }

    fn binary(&mut self, name: &str, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        let ty = self.0.dtype(a);
        self.map(name, Expr::binary(op, ty), &[a, b])
    }

    fn sum(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.binary(name, BinaryOp::Add, a, b)
    }

    fn norm(&mut self, name: &str, x: ValueId, center: bool) -> ValueId {
        let op = Normalize {
            axes: vec![self.0.dims(x).len() - 1],
            epsilon: 0.5,
            center,
        };
        self.0.add1(name, op, &[x]).unwrap()
    }

    fn product(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.0.add1(name, MatMul::default(), &[a, b]).unwrap()
    }

    fn weight(&mut self, name: &str, width: i64) -> ValueId {
        let dims = [self.0.dims(self.0.inputs()[0])[1].clone(), width.into()];
        self.input(name, dims.to_vec())
    }

    /// The plan for these outputs, twice verified.
    fn plan(mut self, outputs: &[ValueId]) -> Plan {
        for &v in outputs {
            self.0.add_output(v);
        }
        let plan = bespoke_plan::plan(&self.0).unwrap();
        bespoke_plan::verify::verify(&plan).unwrap();
        for n in [1, 7, 300] {
            let symbols = plan.symbols.iter().map(|_| n).collect();
            let bound = plan.bind_symbols(symbols).unwrap();
            bespoke_plan::verify::verify_memory(&plan, &bound).unwrap();
        }
        plan
    }
}

/// Templates of the steps of a run.
fn steps(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(|s| s.template.name()).collect()
}

#[test]
fn a_sum_that_leaves_the_model_is_stored_by_its_normalisation() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let vector = |m: &mut Model, name| m.input(name, vec![WIDTH.into()]);
    let (w, b) = (vector(&mut m, "w"), vector(&mut m, "b"));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    let n = m.binary("scaled", BinaryOp::Mul, n, w);
    let n = m.sum("shifted", n, b);
    insta::assert_snapshot!(m.plan(&[y, n]));
}

/// `x + r`, a block that begins with a normalisation, and the sum behind it.
fn block(m: &mut Model, x: ValueId, r: ValueId) -> ValueId {
    let w = m.weight("w", WIDTH);
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    let p = m.product("project", n, w);
    m.sum("z", y, p)
}

#[test]
fn a_normalisation_with_one_reader_is_done_for_the_sum_that_waits() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let z = block(&mut m, x, r);
    insta::assert_snapshot!(m.plan(&[z]));
}

#[test]
fn a_sum_behind_a_product_stays_there() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let w = m.weight("first", WIDTH);
    let x = m.product("product", x, w);
    let z = block(&mut m, x, r);
    insta::assert_snapshot!(m.plan(&[z]));
}

#[test]
fn a_conversion_between_the_sum_and_its_normalisation_comes_along() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let wide = m.map("wide", Expr::cast(DType::F16, DType::F32), &[y]);
    let n = m.norm("norm", wide, false);
    let n = m.map("narrow", Expr::cast(DType::F32, DType::F16), &[n]);
    insta::assert_snapshot!(m.plan(&[n, y]));
}

#[test]
fn one_of_two_normalisations_stores_what_both_read() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let a = m.norm("first", y, true);
    let b = m.norm("second", y, false);
    insta::assert_snapshot!(m.plan(&[a, b]));
}

#[test]
fn a_sum_that_is_read_behind_its_own_normalisation_is_a_step() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    let z = m.sum("z", y, n);
    assert_eq!(steps(&m.plan(&[z])), ["pointwise", "normalize"]);
}

#[test]
fn work_that_has_not_joined_yet_is_not_cut_off() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    // needs the sum before what follows the normalisation is seen
    let other = m.map("other", Expr::unary(UnaryOp::Tanh, DType::F16), &[y]);
    let n = m.map("act", Expr::unary(UnaryOp::Sigmoid, DType::F16), &[n]);
    let plan = m.plan(&[n, other]);
    assert_eq!(
        steps(&plan).iter().filter(|s| **s == "normalize").count(),
        1
    );
    assert!(plan.steps.len() <= 3, "{plan}");
}

#[test]
fn what_does_not_suit_a_row_is_a_step() {
    // too long for the registers of a block
    let mut m = Model::new();
    let (x, r) = (m.rows("x", 1 << 15), m.rows("r", 1 << 15));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    assert_eq!(steps(&m.plan(&[y, n])), ["pointwise", "normalize"]);

    // rows across the memory of the sum, and of an operand
    for across in [true, false] {
        let mut m = Model::new();
        let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
        let turn = Transpose { perm: vec![1, 0] };
        let t = m.0.add1("turned", turn.clone(), &[x]).unwrap();
        let r = match across {
            true => m.0.add1("too", turn, &[r]).unwrap(),
            false => {
                let dims = m.0.dims(t).to_vec();
                m.input("s", dims)
            }
        };
        let y = m.sum("y", t, r);
        let axes = vec![usize::from(!across)];
        let op = Normalize {
            axes,
            epsilon: 0.5,
            center: true,
        };
        let n = m.0.add1("norm", op, &[y]).unwrap();
        assert_eq!(steps(&m.plan(&[y, n])), ["pointwise", "normalize"]);
    }

    // integers
    let mut m = Model::new();
    let x = m.rows("x", WIDTH);
    let y = m.map("y", Expr::cast(DType::F16, DType::I32), &[x]);
    let f = m.map("f", Expr::cast(DType::I32, DType::F16), &[y]);
    let n = m.norm("norm", f, true);
    assert_eq!(steps(&m.plan(&[y, n])), ["pointwise", "normalize"]);
}

#[test]
fn a_step_does_not_write_one_buffer_twice() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    let both = m.0.add1("both", Concat { axis: 1 }, &[y, n]).unwrap();
    insta::assert_snapshot!(m.plan(&[both]));
}

#[test]
fn the_sum_goes_to_its_place_in_a_concat() {
    let mut m = Model::new();
    let (x, r) = (m.rows("x", WIDTH), m.rows("r", WIDTH));
    let y = m.sum("y", x, r);
    let n = m.norm("norm", y, true);
    let both = m.0.add1("both", Concat { axis: 1 }, &[x, y]).unwrap();
    insta::assert_snapshot!(m.plan(&[both, n]));
}
