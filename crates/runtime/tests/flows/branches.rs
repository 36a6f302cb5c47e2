//! If.

use bespoke_ir::DType;

use crate::model::{Net, body, bool, f32, int, options, run_on};

const F: DType = DType::F32;

/// `c ? 2x : concat(x, x)`, plus one.
fn doubled(net: Net, condition: &str) -> Net {
    let then = Net::new("then").node("a", "Add", "x x").gives("a");
    let otherwise = Net::new("else")
        .with("b", "Concat", "x x", &[int("axis", 0)])
        .gives("b");
    net.f32s("one", &[], &[1.0])
        .with(
            "y",
            "If",
            condition,
            &[body("then_branch", then), body("else_branch", otherwise)],
        )
        .node("z", "Add", "y one")
        .gives("z")
}

#[test]
fn a_known_condition_leaves_one_branch() {
    for (value, expected) in [
        (true, f32(&[2], &[3.0, 5.0])),
        (false, f32(&[4], &[2.0, 3.0, 2.0, 3.0])),
    ] {
        let net = doubled(
            Net::new("known").input("x", F, &["N"]).truth("c", value),
            "c",
        );
        assert_eq!(net.cuts(), "");
        assert_eq!(
            net.run(&[("x", f32(&[2], &[1.0, 2.0]))]).unwrap(),
            [expected]
        );
    }
    // known from the shapes
    let net = Net::new("shape")
        .input("x", F, &["N", "3"])
        .node("s", "Shape", "x")
        .node("rank", "Shape", "s")
        .i64s("two", &[1], &[2])
        .node("c", "Equal", "rank two");
    let net = doubled(net, "c");
    assert_eq!(net.cuts(), "");
}

#[test]
fn branches_may_differ_in_extents() {
    let net = Net::new("data")
        .input("x", F, &["N"])
        .f32s("zero", &[], &[0.0])
        .with("s", "ReduceSum", "x", &[int("keepdims", 0)])
        .node("c", "Greater", "s zero");
    let net = doubled(net, "c");
    assert_eq!(net.cuts(), "if");
    let session = net.session(options()).unwrap();
    let run = |x: &[f32]| run_on(&net, &session, &[("x", f32(&[x.len() as i64], x))]).unwrap();
    assert_eq!(run(&[1.0, 2.0]), [f32(&[2], &[3.0, 5.0])]);
    assert_eq!(run(&[-1.0, -2.0]), [f32(&[4], &[0.0, -1.0, 0.0, -1.0])]);
    assert_eq!(run(&[5.0]), [f32(&[1], &[11.0])]);
    let stats = session.stats();
    assert_eq!((stats.runs, stats.cuts.get("if")), (3, Some(&1)));
    assert!(stats.segments >= 3 && stats.segment_runs >= 9, "{stats:?}");
    assert_eq!(session.outputs()[0].name, "z");
}

#[test]
fn a_branch_may_hand_on_what_it_did_not_make() {
    let then = Net::new("then").gives("x k");
    let otherwise = Net::new("else")
        .node("n", "Neg", "x")
        .f32s("five", &[2], &[5.0, 6.0])
        .gives("n five");
    let net = Net::new("aliases")
        .input("x", F, &["2"])
        .input("c", DType::Bool, &[])
        .f32s("k", &[2], &[7.0, 8.0])
        .with(
            "a b",
            "If",
            "c",
            &[body("then_branch", then), body("else_branch", otherwise)],
        )
        .gives("a b x");
    let x = || f32(&[2], &[1.0, 2.0]);
    let run = |c| net.run(&[("x", x()), ("c", bool(c))]).unwrap();
    assert_eq!(run(true), [x(), f32(&[2], &[7.0, 8.0]), x()]);
    assert_eq!(
        run(false),
        [f32(&[2], &[-1.0, -2.0]), f32(&[2], &[5.0, 6.0]), x()]
    );
}

#[test]
fn branches_nest() {
    let inner = |name: &str, add: f32| {
        let then = Net::new("then").node("p", "Add", "w w").gives("p");
        let otherwise = Net::new("else").node("q", "Mul", "w x").gives("q");
        Net::new(name)
            .f32s("k", &[], &[add])
            .node("w", "Add", "x k")
            .with(
                "r",
                "If",
                "d",
                &[body("then_branch", then), body("else_branch", otherwise)],
            )
            .gives("r")
    };
    let net = Net::new("nested")
        .input("x", F, &["N"])
        .input("c", DType::Bool, &[])
        .input("d", DType::Bool, &[])
        .with(
            "y",
            "If",
            "c",
            &[
                body("then_branch", inner("a", 1.0)),
                body("else_branch", inner("b", 10.0)),
            ],
        )
        .gives("y");
    assert_eq!(net.cuts(), "if if if");
    let run = |c, d| {
        let given = [("x", f32(&[1], &[2.0])), ("c", bool(c)), ("d", bool(d))];
        net.run(&given).unwrap()
    };
    assert_eq!(run(true, true), [f32(&[1], &[6.0])]);
    assert_eq!(run(true, false), [f32(&[1], &[6.0])]);
    assert_eq!(run(false, true), [f32(&[1], &[24.0])]);
    assert_eq!(run(false, false), [f32(&[1], &[24.0])]);
}

#[test]
fn results_that_are_extents_are_read() {
    let give = |name: &str, value: i64| {
        Net::new(name)
            .i64s("n", &[1], &[value])
            .node("m", "Identity", "n")
            .gives("m")
    };
    let net = Net::new("shape")
        .input("c", DType::Bool, &[])
        .with(
            "s",
            "If",
            "c",
            &[
                body("then_branch", give("a", 2)),
                body("else_branch", give("b", 3)),
            ],
        )
        .node("y", "ConstantOfShape", "s")
        .gives("y");
    assert_eq!(net.cuts(), "if extent");
    let run = |c| net.run(&[("c", bool(c))]).unwrap();
    assert_eq!(run(true), [f32(&[2], &[0.0; 2])]);
    assert_eq!(run(false), [f32(&[3], &[0.0; 3])]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let then = Net::new("then").node("a", "Neg", "x").gives("a");
    let otherwise = Net::new("else").node("b", "Unsqueeze", "x axes").gives("b");
    let net = Net::new("ranks")
        .input("x", F, &["N"])
        .input("c", DType::Bool, &[])
        .i64s("axes", &[1], &[0])
        .with(
            "y",
            "If",
            "c",
            &[body("then_branch", then), body("else_branch", otherwise)],
        )
        .gives("y");
    let error = net.import().unwrap_err();
    assert!(
        error.contains("different ranks: f32[N] and f32[1,N]"),
        "{error}"
    );

    let strange = Net::new("then").node("a", "Strange", "x").gives("a");
    let fine = Net::new("else").node("b", "Neg", "x").gives("b");
    let net = Net::new("inside")
        .input("x", F, &["N"])
        .input("c", DType::Bool, &[])
        .with(
            "y",
            "If",
            "c",
            &[body("then_branch", strange), body("else_branch", fine)],
        )
        .gives("y");
    let error = net.import().unwrap_err();
    assert!(
        error.contains("Strange") && !error.contains("'If y'"),
        "{error}"
    );
}
