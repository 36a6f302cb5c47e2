//! Loop and Scan.

use bespoke_ir::DType;

use crate::model::{Net, body, bool, f32, i64, int, ints};

const F: DType = DType::F32;

/// Adds `x` to the state, and stacks the state and the number of the iteration.
fn adding(more: Net) -> Net {
    more.takes("i c s")
        .node("t", "Add", "s x")
        .node("e", "Identity", "t")
        .node("k", "Identity", "i")
}

fn always() -> Net {
    Net::new("body").node("go", "Identity", "c")
}

#[test]
fn a_short_loop_becomes_straight_code() {
    for (trip, states) in [(3, vec![1.0, 2.0, 3.0]), (1, vec![1.0]), (0, vec![])] {
        let net = Net::new("short")
            .input("x", F, &["N"])
            .i64s("m", &[], &[trip])
            .f32s("zero", &[1], &[0.0])
            .node("start", "Mul", "x zero")
            .with(
                "s t k",
                "Loop",
                "m _ start",
                &[body("body", adding(always()).gives("go t e k"))],
            )
            .gives("s t k");
        assert_eq!(net.cuts(), "", "{trip}");
        let last = states.last().copied().unwrap_or(0.0);
        let numbers: Vec<i64> = (0..trip).collect();
        assert_eq!(
            net.run(&[("x", f32(&[1], &[1.0]))]).unwrap(),
            [
                f32(&[1], &[last]),
                f32(&[trip, 1], &states),
                i64(&[trip], &numbers)
            ]
        );
    }
}

#[test]
fn a_short_loop_ends_where_its_condition_is_known_to_fail() {
    let inner = Net::new("body")
        .i64s("two", &[], &[2])
        .node("go", "Less", "i two");
    let net = Net::new("known")
        .input("x", F, &["1"])
        .i64s("m", &[], &[10])
        .truth("yes", true)
        .f32s("start", &[1], &[0.0])
        .with(
            "s t k",
            "Loop",
            "m yes start",
            &[body("body", adding(inner).gives("go t e k"))],
        )
        .gives("s k");
    assert_eq!(net.cuts(), "");
    let expected = [f32(&[1], &[6.0]), i64(&[3], &[0, 1, 2])];
    assert_eq!(net.run(&[("x", f32(&[1], &[2.0]))]).unwrap(), expected);
}

/// A loop with trip count `m` and condition `c`, both inputs or left out, which goes on while the state is below ten.
fn driven(trip: &str, condition: &str) -> Net {
    let inner = Net::new("body")
        .f32s("ten", &[1], &[10.0])
        .node("below", "Less", "t ten")
        .i64s("none", &[0], &[])
        .node("go", "Reshape", "below none");
    let mut net = Net::new("driven").input("x", F, &["1"]);
    if trip == "m" {
        net = net.input("m", DType::I64, &[]);
    }
    if condition == "c" {
        net = net.input("c", DType::Bool, &[]);
    }
    net.f32s("start", &[1], &[0.0])
        .with(
            "s t k",
            "Loop",
            &format!("{trip} {condition} start"),
            &[body("body", adding(inner).gives("go t e k"))],
        )
        .gives("s t k")
}

#[test]
fn trip_count_and_condition_end_a_loop() {
    let x = || ("x", f32(&[1], &[4.0]));
    let three = [
        f32(&[1], &[12.0]),
        f32(&[3, 1], &[4.0, 8.0, 12.0]),
        i64(&[3], &[0, 1, 2]),
    ];
    let none = [f32(&[1], &[0.0]), f32(&[0, 1], &[]), i64(&[0], &[])];
    let two = [
        f32(&[1], &[8.0]),
        f32(&[2, 1], &[4.0, 8.0]),
        i64(&[2], &[0, 1]),
    ];
    // without a trip count only the condition ends it
    assert_eq!(driven("_", "_").run(&[x()]).unwrap(), three);
    for (m, expected) in [(9, &three), (2, &two), (0, &none), (-1, &none)] {
        let m = ("m", i64(&[], &[m]));
        assert_eq!(driven("m", "_").run(&[x(), m.clone()]).unwrap(), *expected);
        let given = [x(), m.clone(), ("c", bool(true))];
        assert_eq!(driven("m", "c").run(&given).unwrap(), *expected);
        let given = [x(), m, ("c", bool(false))];
        assert_eq!(driven("m", "c").run(&given).unwrap(), none);
    }
    assert_eq!(
        driven("_", "c").run(&[x(), ("c", bool(false))]).unwrap(),
        none
    );
    assert_eq!(driven("m", "c").cuts(), "loop");
}

#[test]
fn what_is_carried_may_grow() {
    let inner = Net::new("body")
        .takes("i c s")
        .node("go", "Identity", "c")
        .with("t", "Concat", "s x", &[int("axis", 0)])
        .gives("go t");
    let net = Net::new("growing")
        .input("x", F, &["N"])
        .input("m", DType::I64, &["1"])
        .with("s", "Loop", "m _ x", &[body("body", inner)])
        .node("y", "Neg", "s")
        .gives("y");
    let run = |m| {
        net.run(&[("x", f32(&[2], &[1.0, 2.0])), ("m", i64(&[1], &[m]))])
            .unwrap()
    };
    assert_eq!(run(0), [f32(&[2], &[-1.0, -2.0])]);
    assert_eq!(run(2), [f32(&[6], &[-1.0, -2.0, -1.0, -2.0, -1.0, -2.0])]);
}

#[test]
fn values_may_change_places() {
    let inner = Net::new("body")
        .takes("i c a b")
        .node("go", "Identity", "c")
        .gives("go b a");
    let net = Net::new("swap")
        .input("x", F, &["N"])
        .input("y", F, &["M"])
        .input("m", DType::I64, &[])
        .with("p q", "Loop", "m _ x y", &[body("body", inner)])
        .gives("p q");
    let (x, y) = (f32(&[1], &[1.0]), f32(&[2], &[2.0, 3.0]));
    let run = |m| {
        let given = [("x", x.clone()), ("y", y.clone()), ("m", i64(&[], &[m]))];
        net.run(&given).unwrap()
    };
    assert_eq!(run(0), [x.clone(), y.clone()]);
    assert_eq!(run(3), [y.clone(), x.clone()]);
    assert_eq!(run(4), [x.clone(), y.clone()]);
}

#[test]
fn loops_and_branches_nest_and_see_what_is_around_them() {
    // adds x in even iterations and an inner loop's sum of w in odd ones
    let then = Net::new("then").node("p", "Add", "s x").gives("p");
    let innermost = Net::new("innermost")
        .takes("j d u")
        .node("on", "Identity", "d")
        .node("v", "Add", "u w")
        .gives("on v");
    let otherwise = Net::new("else")
        .with("q", "Loop", "n _ s", &[body("body", innermost)])
        .gives("q");
    let inner = Net::new("body")
        .takes("i c s")
        .node("go", "Identity", "c")
        .i64s("two", &[], &[2])
        .i64s("zero", &[], &[0])
        .node("w", "Add", "x x")
        .node("r", "Mod", "i two")
        .node("even", "Equal", "r zero")
        .with(
            "t",
            "If",
            "even",
            &[body("then_branch", then), body("else_branch", otherwise)],
        )
        .gives("go t");
    let net = Net::new("nested")
        .input("x", F, &["N"])
        .input("n", DType::I64, &[])
        .input("m", DType::I64, &[])
        .with("y", "Loop", "m _ x", &[body("body", inner)])
        .gives("y");
    assert_eq!(net.cuts(), "loop if loop");
    let run = |m, n| {
        let given = [
            ("x", f32(&[1], &[1.0])),
            ("m", i64(&[], &[m])),
            ("n", i64(&[], &[n])),
        ];
        net.run(&given).unwrap()[0].to_f64()
    };
    assert_eq!(run(1, 5), [2.0]);
    assert_eq!(run(2, 5), [12.0]);
    assert_eq!(run(4, 0), [3.0]);
}

#[test]
fn stacked_results_of_different_shapes_are_refused() {
    let inner = Net::new("body")
        .takes("i c s")
        .node("go", "Identity", "c")
        .with("t", "Concat", "s x", &[int("axis", 0)])
        .node("e", "Neg", "t")
        .gives("go t e");
    let net = Net::new("ragged")
        .input("x", F, &["N"])
        .input("m", DType::I64, &[])
        .with("s k", "Loop", "m _ x", &[body("body", inner)])
        .gives("k");
    let run = |m| net.run(&[("x", f32(&[1], &[1.0])), ("m", i64(&[], &[m]))]);
    assert_eq!(run(1).unwrap(), [f32(&[1, 2], &[-1.0, -1.0])]);
    let error = run(2).unwrap_err();
    assert!(
        error.contains("iteration 1 gives") && error.contains("[3]"),
        "{error}"
    );
}

#[test]
fn the_number_of_an_iteration_may_decide_extents() {
    let inner = Net::new("body")
        .takes("i c s")
        .node("go", "Identity", "c")
        .i64s("one", &[1], &[1])
        .i64s("axis", &[1], &[0])
        .node("from", "Unsqueeze", "i axis")
        .node("to", "Add", "from one")
        .node("part", "Slice", "x from to axis")
        .node("t", "Add", "s part")
        .node("e", "Identity", "part")
        .gives("go t e");
    let net = Net::new("slices")
        .input("x", F, &["N"])
        .input("m", DType::I64, &[])
        .f32s("zero", &[1], &[0.0])
        .with("s k", "Loop", "m _ zero", &[body("body", inner)])
        .gives("s k");
    let given = [
        ("x", f32(&[4], &[1.0, 2.0, 3.0, 4.0])),
        ("m", i64(&[], &[3])),
    ];
    assert_eq!(
        net.run(&given).unwrap(),
        [f32(&[1], &[6.0]), f32(&[3, 1], &[1.0, 2.0, 3.0])]
    );
}

/// Running sums of the rows of x, and each row times two.
fn scan(net: Net, attributes: &[bespoke_onnx::proto::AttributeProto]) -> Net {
    let inner = Net::new("body")
        .takes("s row")
        .node("t", "Add", "s row")
        .node("sum", "Identity", "t")
        .node("twice", "Add", "row row")
        .gives("t sum twice");
    let mut all = vec![body("body", inner), int("num_scan_inputs", 1)];
    all.extend(attributes.iter().cloned());
    net.f32s("zero", &[2], &[0.0, 0.0])
        .with("last sums twice", "Scan", "zero x", &all)
        .gives("last sums twice")
}

#[test]
fn a_scan_goes_along_an_axis_in_either_direction() {
    let x = f32(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let last = f32(&[2], &[9.0, 12.0]);
    let sums = f32(&[3, 2], &[1.0, 2.0, 4.0, 6.0, 9.0, 12.0]);
    let twice = f32(&[3, 2], &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    for (rows, cuts) in [("3", ""), ("N", "scan")] {
        let net = || Net::new("scan").input("x", F, &[rows, "2"]);
        let plain = scan(net(), &[]);
        assert_eq!(plain.cuts(), cuts);
        let run = |net: Net| net.run(&[("x", x.clone())]).unwrap();
        assert_eq!(run(plain), [last.clone(), sums.clone(), twice.clone()]);
        // from the back, and what is stacked in its own order
        let back = scan(
            net(),
            &[
                ints("scan_input_directions", &[1]),
                ints("scan_output_directions", &[0, 1]),
            ],
        );
        let from_back = f32(&[3, 2], &[5.0, 6.0, 8.0, 10.0, 9.0, 12.0]);
        assert_eq!(run(back), [last.clone(), from_back, twice.clone()]);
        // stacked along the last axis
        let across = scan(net(), &[ints("scan_output_axes", &[1, -1])]);
        let turned = f32(&[2, 3], &[1.0, 4.0, 9.0, 2.0, 6.0, 12.0]);
        let twice = f32(&[2, 3], &[2.0, 6.0, 10.0, 4.0, 8.0, 12.0]);
        assert_eq!(run(across), [last.clone(), turned, twice]);
    }
    let net = scan(
        Net::new("columns").input("x", F, &["2", "N"]),
        &[ints("scan_input_axes", &[1])],
    );
    let columns = f32(&[2, 3], &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    assert_eq!(net.run(&[("x", columns)]).unwrap(), [last, sums, twice]);
}

#[test]
fn a_scan_over_nothing_gives_its_initial_state() {
    let net = scan(Net::new("empty").input("x", F, &["N", "2"]), &[]);
    let empty = f32(&[0, 2], &[]);
    let expected = [f32(&[2], &[0.0, 0.0]), empty.clone(), empty.clone()];
    assert_eq!(net.run(&[("x", empty)]).unwrap(), expected);
}
