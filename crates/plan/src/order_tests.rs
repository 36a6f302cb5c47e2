//! Plans of small graphs with known branches, and random ones.

use bespoke_ir::op::{Map, MatMul};
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{Constant, DType, Expr, Graph, SymInt, TensorType, UnaryOp, ValueId};
use proptest::prelude::*;

use super::*;
use crate::verify::{verify, verify_memory};

fn ty(rows: SymInt, columns: i64) -> TensorType {
    TensorType::new(DType::F32, vec![rows, columns.into()])
}

fn weight(g: &mut Graph, k: i64, n: i64) -> ValueId {
    let data = vec![0_u8; (k * n * 4) as usize];
    let constant = Constant::new(DType::F32, vec![k, n], data.into()).unwrap();
    g.add_constant("w", constant)
}

fn product(g: &mut Graph, name: &str, x: ValueId, k: i64, n: i64) -> ValueId {
    let w = weight(g, k, n);
    g.add1(name, MatMul::default(), &[x, w]).unwrap()
}

fn symbol(g: &mut Graph, name: &str) -> SymInt {
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    SymInt::symbol(g.symbols.add(Symbol::new(name, origin)))
}

/// `from → to` of every edge, by the steps' names.
fn edges(plan: &Plan) -> Vec<String> {
    let name = |s: usize| &plan.steps[s].name;
    let text = |e: &Edge| {
        let arrow = if e.programmatic { "⇢" } else { "→" };
        format!("{}{arrow}{}", name(e.from), name(e.to))
    };
    plan.edges.iter().map(text).collect()
}

/// Three products of one tensor, joined one after the other: `(q·k)·v`.
fn projections(rows: impl Fn(&mut Graph) -> SymInt, size: i64) -> Plan {
    let mut g = Graph::new("projections");
    let rows = rows(&mut g);
    let x = g.add_input("x", ty(rows, size));
    let h = product(&mut g, "h", x, size, size);
    let q = product(&mut g, "q", h, size, size);
    let k = product(&mut g, "k", h, size, size);
    let v = product(&mut g, "v", h, size, size);
    let s = g.add1(
        "s",
        MatMul {
            transpose_b: true,
            ..MatMul::default()
        },
        &[q, k],
    );
    let y = g.add1("y", MatMul::default(), &[s.unwrap(), v]).unwrap();
    g.add_output(y);
    let plan = crate::plan(&g).unwrap();
    verify(&plan).unwrap();
    plan
}

#[test]
fn projections_of_one_tensor_are_branches() {
    let plan = projections(|g| symbol(g, "N"), 32);
    assert_eq!(
        edges(&plan),
        ["h→q", "h→k", "q→s", "k→s", "h→v", "s→y", "v→y"]
    );
    for rows in [1, 7, 500] {
        let binding = plan.bind_symbols(vec![rows]).unwrap();
        verify_memory(&plan, &binding).unwrap();
    }
}

#[test]
fn steps_that_fill_a_device_stay_in_one_chain() {
    let plan = projections(|_| 4096.into(), 512);
    assert_eq!(edges(&plan), ["h→q", "q→k", "k→s", "s→v", "v→y"]);
}

#[test]
fn a_chain_of_small_steps_is_programmatic() {
    let mut g = Graph::new("chain");
    let x = g.add_input("x", ty(4.into(), 32));
    let a = product(&mut g, "a", x, 32, 32);
    let b = product(&mut g, "b", a, 32, 32);
    let c = product(&mut g, "c", b, 32, 4096 * 32);
    let d = product(&mut g, "d", c, 4096 * 32, 8);
    g.add_output(d);
    let plan = crate::plan(&g).unwrap();
    assert_eq!(edges(&plan), ["a⇢b", "b⇢c", "c→d"], "`c` writes 2¹⁹ floats");
}

#[test]
fn a_lone_map_is_not_worth_a_branch() {
    let mut g = Graph::new("mask");
    let x = g.add_input("x", ty(4.into(), 32));
    let m = g.add_input("m", ty(4.into(), 32));
    let a = product(&mut g, "a", x, 32, 32);
    let b = product(&mut g, "b", a, 32, 32);
    // read twice, so that nothing takes it in
    let n = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
    let n = g.add1("n", n, &[m]).unwrap();
    let c = g
        .add1(
            "c",
            MatMul {
                transpose_b: true,
                ..MatMul::default()
            },
            &[b, n],
        )
        .unwrap();
    let d = g.add1("d", MatMul::default(), &[c, n]).unwrap();
    g.add_output(d);
    let plan = crate::plan(&g).unwrap();
    let chain: Vec<Edge> = plan
        .edges
        .iter()
        .map(|e| Edge::plain(e.from, e.to))
        .collect();
    assert_eq!(chain, bespoke_device::chain(plan.steps.len()), "{plan}");
}

#[test]
fn a_segment_stays_near_its_place() {
    let mut g = Graph::new("far");
    let x = g.add_input("x", ty(4.into(), 32));
    let mut at = product(&mut g, "first", x, 32, 32);
    let origin = at;
    for i in 0..30 {
        at = product(&mut g, &format!("m{i}"), at, 32, 32);
        if i == 19 {
            let side = product(&mut g, "side", origin, 32, 32);
            let both = MatMul {
                transpose_b: true,
                ..MatMul::default()
            };
            let s = g.add1("join", both, &[at, side]).unwrap();
            at = product(&mut g, "m", s, 4, 32);
        }
    }
    g.add_output(at);
    let plan = crate::plan(&g).unwrap();
    verify(&plan).unwrap();
    let edges = edges(&plan);
    assert!(edges.contains(&"m11→side".to_owned()), "{edges:?}");
    assert!(edges.contains(&"side→join".to_owned()), "{edges:?}");
}

#[test]
fn broken_orders_are_found() {
    let whole = projections(|g| symbol(g, "N"), 32);
    for missing in 0..whole.edges.len() {
        let mut plan = whole.clone();
        plan.edges.remove(missing);
        let error = verify(&plan).unwrap_err();
        assert!(error.reason.contains("nothing orders it"), "{error}");
    }
    let mut plan = whole.clone();
    plan.edges[0] = Edge::plain(1, 0);
    assert!(verify(&plan).is_err());
    // as if the branches were one chain: their results would share bytes
    let mut plan = whole;
    for placement in &mut plan.arena {
        placement.apart.clear();
    }
    let binding = plan.bind_symbols(vec![5]).unwrap();
    let error = verify_memory(&plan, &binding).unwrap_err();
    assert!(error.reason.contains("at the same time"), "{error}");
}

/// A random graph of maps and products of matrices `[N, 16]`.
fn random(picks: &[(u8, u8, u8)], large: u8) -> Plan {
    let mut g = Graph::new("random");
    let rows = symbol(&mut g, "N");
    let x = g.add_input("x", ty(rows.clone(), 16));
    let y = g.add_input("y", ty(rows, 16));
    let mut values = vec![x, y];
    for (i, &(kind, a, b)) in picks.iter().enumerate() {
        let pick = |n: u8| values[usize::from(n) % values.len()];
        let (a, b) = (pick(a), pick(b));
        let name = format!("s{i}");
        let value = match kind % 4 {
            0 => product(&mut g, &name, a, 16, 16),
            1 if kind / 4 < large => {
                let wide = product(&mut g, &name, a, 16, 1 << 19);
                product(&mut g, &format!("{name}b"), wide, 1 << 19, 16)
            }
            1 | 2 => {
                let both = MatMul {
                    transpose_b: true,
                    ..MatMul::default()
                };
                let s = g.add1(name.as_str(), both, &[a, b]).unwrap();
                g.add1(&*format!("{name}b"), MatMul::default(), &[s, a])
                    .unwrap()
            }
            _ => {
                let map = Map::new(Expr::unary(UnaryOp::Exp, DType::F32));
                g.add1(name.as_str(), map, &[a]).unwrap()
            }
        };
        values.push(value);
    }
    g.add_output(values[values.len() - 1]);
    g.add_output(values[values.len() / 2 + 1]);
    crate::plan(&g).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the graph: conflicts are ordered, bytes are shared only in order, few steps are unordered.
    #[test]
    fn every_plan_is_ordered(picks in prop::collection::vec(any::<(u8, u8, u8)>(), 3..60), large in 0_u8..3) {
        let plan = random(&picks, large);
        verify(&plan).unwrap();
        for rows in [1, 33] {
            let binding = plan.bind_symbols(vec![rows]).unwrap();
            verify_memory(&plan, &binding).unwrap();
        }
        let closure = Closure::of(plan.steps.len(), &plan.edges);
        for step in 0..plan.steps.len() {
            let large = |s: usize| !size(&plan, &plan.steps[s]).small;
            for other in closure.beside(step) {
                prop_assert!(!(large(step) && large(other)), "{} and {}", step, other);
            }
        }
    }
}
