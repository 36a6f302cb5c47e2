//! Plans in which elementwise steps stand side by side: those that do not need one another share a launch.

use bespoke_ir::op::{Concat, Map, MatMul, Transpose};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{BinaryOp, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use bespoke_plan::verify::{verify, verify_memory};
use bespoke_plan::{Arg, Plan};

fn unary(g: &mut Graph, name: &str, x: ValueId) -> ValueId {
    let ty = g.dtype(x);
    g.add1(name, Map::new(Expr::unary(UnaryOp::Exp, ty)), &[x])
        .unwrap()
}

fn input(g: &mut Graph, name: &str, dims: &[SymInt]) -> ValueId {
    g.add_input(name, TensorType::new(DType::F16, dims.to_vec()))
}

fn symbol(g: &mut Graph) -> SymInt {
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    SymInt::symbol(g.symbols.add(Symbol::new("N", origin)))
}

fn planned(g: &Graph) -> Plan {
    let plan = bespoke_plan::plan(g).unwrap();
    verify(&plan).unwrap();
    plan
}

/// The steps' templates and names.
fn steps(plan: &Plan) -> Vec<String> {
    let text = |s: &bespoke_plan::Step| format!("{} {}", s.template.name(), s.name);
    plan.steps.iter().map(text).collect()
}

#[test]
fn steps_that_do_not_need_one_another_are_one() {
    let mut g = Graph::new("beside");
    let n = symbol(&mut g);
    // outputs of other sizes than the inputs, which a caller so cannot hand in as one
    let x = input(&mut g, "x", &[n.clone(), 8.into()]);
    let y = input(&mut g, "y", &[n, 24.into()]);
    for (name, operands) in [("xx", [x, x]), ("yy", [y, y])] {
        let both = g.add1(name, Concat { axis: 1 }, &operands).unwrap();
        let result = unary(&mut g, &format!("exp {name}"), both);
        g.add_output(result);
    }
    let plan = planned(&g);
    insta::assert_snapshot!(plan.to_string());
    for rows in [1, 5, 300] {
        let binding = plan.bind(&[&[rows, 8], &[rows, 24]]).unwrap();
        verify_memory(&plan, &binding).unwrap();
    }
    // slots follow one another, and are those of the parts
    let slots: usize = plan.steps.iter().map(|s| s.slots).sum();
    assert_eq!(plan.slot_count(), slots);
}

#[test]
fn a_step_that_needs_another_comes_behind_it() {
    let mut g = Graph::new("chain");
    let x = input(&mut g, "x", &[4.into(), 8.into()]);
    let y = input(&mut g, "y", &[4.into(), 8.into()]);
    // both are read twice, so that they are steps of their own
    let (a, b) = (unary(&mut g, "a", x), unary(&mut g, "b", y));
    let sum = Map::new(Expr::binary(BinaryOp::Add, DType::F16));
    for (name, p, q) in [("aa", a, x), ("bb", b, y), ("ab", a, b)] {
        let joined = g.add1(name, Concat { axis: 0 }, &[p, q]).unwrap();
        let both = g.add1(name, sum.clone(), &[joined, joined]).unwrap();
        g.add_output(both);
    }
    let plan = planned(&g);
    assert!(
        steps(&plan).iter().any(|s| s.starts_with("group ")),
        "{plan}"
    );
    // what reads `a` is in no step before or with it
    for (i, step) in plan.steps.iter().enumerate() {
        let written: Vec<_> = plan.steps[..i]
            .iter()
            .flat_map(|s| &s.args)
            .filter_map(|a| match a {
                Arg::Write(b) => Some(*b),
                _ => None,
            })
            .collect();
        for arg in &step.args {
            if let Arg::Read(b) = arg {
                let input = plan.inputs.iter().any(|p| p.buffer == *b);
                assert!(input || written.contains(b), "{plan}");
            }
        }
    }
}

#[test]
fn memory_that_may_be_handed_in_twice_keeps_steps_apart() {
    // `x` may be handed in as the second result, `y` as the first
    let mut g = Graph::new("twice");
    let n = symbol(&mut g);
    let x = input(&mut g, "x", &[n.clone(), 8.into()]);
    let y = input(&mut g, "y", &[n, 8.into()]);
    for (name, operand) in [("exp x", x), ("exp y", y)] {
        let result = unary(&mut g, name, operand);
        g.add_output(result);
    }
    assert_eq!(steps(&planned(&g)), ["pointwise exp x", "pointwise exp y"]);
}

#[test]
fn a_step_that_reads_across_stays_alone() {
    let mut g = Graph::new("across");
    let n = symbol(&mut g);
    let x = input(&mut g, "x", &[n.clone(), 8.into()]);
    let y = input(&mut g, "y", &[n, 64.into()]);
    let turned = g
        .add1("turned", Transpose { perm: vec![1, 0] }, &[x])
        .unwrap();
    let turned = unary(&mut g, "exp turned", turned);
    let plain = unary(&mut g, "exp y", y);
    g.add_output(turned);
    g.add_output(plain);
    let plan = planned(&g);
    assert_eq!(steps(&plan).len(), 2, "{plan}");
}

#[test]
fn parts_of_one_tensor_are_written_by_one_step() {
    let mut g = Graph::new("cache");
    let n = symbol(&mut g);
    let token = input(&mut g, "token", &[n.clone(), 8.into(), 1.into(), 16.into()]);
    let weights = input(&mut g, "weights", &[16.into(), 128.into()]);
    let product = g
        .add1("product", MatMul::default(), &[token, weights])
        .unwrap();
    for (name, function) in [("keys", UnaryOp::Exp), ("values", UnaryOp::Neg)] {
        let dims = [n.clone(), 8.into(), 300.into(), 128.into()];
        let past = input(&mut g, name, &dims);
        let function = Map::new(Expr::unary(function, DType::F16));
        let new = g.add1(format!("new {name}"), function, &[product]).unwrap();
        let all = g
            .add1(format!("all {name}"), Concat { axis: 2 }, &[past, new])
            .unwrap();
        g.add_output(all);
    }
    let plan = planned(&g);
    insta::assert_snapshot!(plan.to_string());
    for rows in [1, 7, 300] {
        let past: &[i64] = &[rows, 8, 300, 128];
        let dims: [&[i64]; 4] = [&[rows, 8, 1, 16], &[16, 128], past, past];
        verify_memory(&plan, &plan.bind(&dims).unwrap()).unwrap();
    }
}
