//! Plans in another arithmetic: which steps have it, and which have not.

use bespoke_ir::op::conv::Window;
use bespoke_ir::op::{Conv, MatMul};
use bespoke_ir::{Constant, DType, Graph, SymInt, TensorType, ValueId};
use bespoke_plan::{Plan, plan, plan_in};

fn dense(dtype: DType, dims: &[i64]) -> TensorType {
    TensorType::new(dtype, dims.iter().map(|&d| SymInt::constant(d)).collect())
}

fn constant(g: &mut Graph, name: &str, dims: &[i64]) -> ValueId {
    let count = dims.iter().product::<i64>();
    let numbers = (0..count).flat_map(|i| (i as f32).to_le_bytes());
    let bytes: Vec<u8> = numbers.collect();
    let c = Constant::new(DType::F32, dims.to_vec(), bytes.into()).unwrap();
    g.add_constant(name, c)
}

/// Products of f32, of f16 and of bf16, one of them with a product of weights; a convolution, and a depthwise one.
fn graph() -> Graph {
    let mut g = Graph::new("products");
    let product = |g: &mut Graph, name: &str, of: [ValueId; 2]| {
        let v = g.add1(name, MatMul::default(), &of).unwrap();
        g.add_output(v);
    };
    for dtype in [DType::F16, DType::BF16] {
        let x = g.add_input(format!("x_{dtype}"), dense(dtype, &[64, 64]));
        product(&mut g, &format!("p_{dtype}"), [x, x]);
    }
    let x = g.add_input("x", dense(DType::F32, &[64, 64]));
    product(&mut g, "p", [x, x]);
    let image = g.add_input("image", dense(DType::F32, &[1, 8, 16, 16]));
    for (name, groups) in [("conv", 1), ("depthwise", 8)] {
        let w = constant(&mut g, &format!("w_{name}"), &[8, 8 / groups, 1, 1]);
        let window = Window::unit(2);
        let v = g.add1(name, Conv { window, groups }, &[image, w]).unwrap();
        g.add_output(v);
    }
    bespoke_passes::canonicalize(&mut g).unwrap();
    g
}

/// What each step of a run that multiplies is described by.
fn products(plan: &Plan) -> String {
    let steps = plan
        .steps
        .iter()
        .filter(|s| s.template.name() != "pointwise");
    steps
        .map(|s| {
            format!(
                "{}: {} {}\n",
                s.name,
                s.template.name(),
                s.template.describe()
            )
        })
        .collect()
}

#[test]
fn each_step_has_the_arithmetic_of_its_operands() {
    let g = graph();
    let of = |words: &str| {
        let plan = plan_in(&g, words.parse().unwrap()).unwrap();
        bespoke_plan::verify::verify(&plan).unwrap();
        assert_eq!(plan.arithmetic.to_string(), words);
        plan
    };
    insta::assert_snapshot!("exact", products(&of("exact")));
    insta::assert_snapshot!("tf32_promoted", products(&of("tf32,promoted")));
    insta::assert_snapshot!("f16", products(&of("f16")));
}

#[test]
fn the_exact_arithmetic_is_what_a_plan_has_unasked() {
    let g = graph();
    let asked = plan_in(&g, "exact".parse().unwrap()).unwrap();
    assert_eq!(plan(&g).unwrap().to_string(), asked.to_string());
    assert!(!asked.to_string().contains(" in "));
}

#[test]
fn what_is_computed_once_is_exact() {
    let mut g = Graph::new("weights");
    let (a, b) = (
        constant(&mut g, "a", &[64, 64]),
        constant(&mut g, "b", &[64, 64]),
    );
    let w = g.add1("w", MatMul::default(), &[a, b]).unwrap();
    let x = g.add_input("x", dense(DType::F32, &[64, 64]));
    let y = g.add1("y", MatMul::default(), &[x, w]).unwrap();
    g.add_output(y);
    // as it is: a pass may compute what is constant itself
    let plan = plan_in(&g, "tf32".parse().unwrap()).unwrap();
    let text = plan.to_string();
    let of = |prefix: &str| -> Vec<&str> {
        let lines = text.lines().map(str::trim);
        lines
            .filter(|l| l.starts_with(prefix) && l.contains("gemm("))
            .collect()
    };
    let setup = of("setup");
    assert!(setup.len() == 1 && !setup[0].contains("tf32"), "{text}");
    assert_eq!(text.matches("in tf32").count(), 1, "{text}");
}
