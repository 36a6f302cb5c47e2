//! Extents that the device computes, or that the content of an input decides.

use bespoke_ir::DType;

use crate::model::{Net, f32, i64, int, options, run_on};

const F: DType = DType::F32;

#[test]
fn non_zero_elements_are_found_in_order() {
    let net = Net::new("where")
        .input("x", F, &["N", "3"])
        .node("y", "NonZero", "x")
        .gives("y");
    assert_eq!(net.cuts(), "extent");
    let session = net.session(options()).unwrap();
    let run = |dims: &[i64], x: &[f32]| run_on(&net, &session, &[("x", f32(dims, x))]).unwrap();
    assert_eq!(
        run(&[2, 3], &[1.0, 0.0, -2.0, 0.0, f32::NAN, 0.0]),
        [i64(&[2, 3], &[0, 0, 1, 0, 2, 1])]
    );
    assert_eq!(run(&[1, 3], &[0.0; 3]), [i64(&[2, 0], &[])]);
    assert_eq!(run(&[0, 3], &[]), [i64(&[2, 0], &[])]);
    assert_eq!(
        run(&[1, 3], &[1.0, 2.0, 3.0]),
        [i64(&[2, 3], &[0, 0, 0, 0, 1, 2])]
    );
    assert_eq!(session.inputs()[0].dims, ["N", "3"]);
}

#[test]
fn what_was_found_can_be_worked_on() {
    // the positive elements, each less the mean of all
    let net = Net::new("select")
        .input("x", F, &["N"])
        .f32s("zero", &[], &[0.0])
        .node("positive", "Greater", "x zero")
        .node("at", "NonZero", "positive")
        .with("flat", "Transpose", "at", &[])
        .node("found", "GatherND", "x flat")
        .with("mean", "ReduceMean", "x", &[int("keepdims", 0)])
        .node("y", "Sub", "found mean")
        .gives("y");
    let run = |x: &[f32]| net.run(&[("x", f32(&[x.len() as i64], x))]).unwrap();
    assert_eq!(run(&[4.0, -1.0, 3.0, -2.0]), [f32(&[2], &[3.0, 2.0])]);
    assert_eq!(run(&[-4.0]), [f32(&[0], &[])]);
}

#[test]
fn a_computed_target_is_a_target_in_full() {
    // the target is computed on the device, so that nothing of it is known
    let net = Net::new("reshape")
        .input("x", F, &["N", "6"])
        .input("s", DType::I64, &["2"])
        .node("t", "Neg", "s")
        .node("y", "Reshape", "x t")
        .gives("y");
    assert_eq!(net.cuts(), "extent");
    let x = || f32(&[2, 6], &(0..12).map(|v| v as f32).collect::<Vec<_>>());
    let run = |s: &[i64]| net.run(&[("x", x()), ("s", i64(&[2], s))]);
    let dims = |s: &[i64]| run(s).unwrap()[0].dims().to_vec();
    assert_eq!(dims(&[-3, -4]), [3, 4]);
    assert_eq!(dims(&[1, -4]), [3, 4], "-1 is what is left over");
    assert_eq!(dims(&[0, 1]), [2, 6], "0 is the data's extent");
    let error = run(&[1, 1]).unwrap_err();
    assert!(error.contains("there is a -1 already"), "{error}");
    let error = run(&[-5, -2]).unwrap_err();
    assert!(
        error.contains("condition") || error.contains("fit"),
        "{error}"
    );
}

#[test]
fn the_content_of_an_input_may_be_an_extent() {
    let net = Net::new("given")
        .input("x", F, &["N"])
        .input("s", DType::I64, &["2"])
        .node("y", "Expand", "x s")
        .gives("y");
    assert_eq!(net.cuts(), "extent");
    let run = |s: &[i64]| net.run(&[("x", f32(&[2], &[1.0, 2.0])), ("s", i64(&[2], s))]);
    assert_eq!(run(&[2, 1]).unwrap(), [f32(&[2, 2], &[1.0, 2.0, 1.0, 2.0])]);
    assert_eq!(run(&[1, 2]).unwrap(), [f32(&[1, 2], &[1.0, 2.0])]);
    run(&[1, 3]).unwrap_err();
}

#[test]
fn computed_bounds_of_a_slice_count_from_the_end_too() {
    let net = Net::new("slice")
        .input("x", F, &["N"])
        .input("k", DType::I64, &["1"])
        .node("from", "Neg", "k")
        .i64s("end", &[1], &[i64::MAX])
        .node("y", "Slice", "x from end")
        .gives("y");
    let run = |k: i64| {
        let given = [
            ("x", f32(&[4], &[1.0, 2.0, 3.0, 4.0])),
            ("k", i64(&[1], &[k])),
        ];
        net.run(&given).unwrap()[0].to_f64()
    };
    assert_eq!(run(1), [4.0]);
    assert_eq!(run(-3), [4.0]);
    assert_eq!(run(9), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(run(-9), [0.0; 0]);
}

#[test]
fn a_list_of_booleans_chooses_slices() {
    let net = |attributes: &[bespoke_onnx::proto::AttributeProto]| {
        Net::new("compress")
            .input("x", F, &["N", "2"])
            .input("k", F, &["K"])
            .f32s("zero", &[], &[0.0])
            .node("c", "Greater", "k zero")
            .with("y", "Compress", "x c", attributes)
            .gives("y")
    };
    let x = || f32(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let run = |net: Net, k: &[f32]| {
        net.run(&[("x", x()), ("k", f32(&[k.len() as i64], k))])
            .unwrap()
    };
    assert_eq!(
        run(net(&[int("axis", 0)]), &[1.0, 0.0, 1.0]),
        [f32(&[2, 2], &[1.0, 2.0, 5.0, 6.0])]
    );
    assert_eq!(
        run(net(&[int("axis", -1)]), &[0.0, 1.0]),
        [f32(&[3, 1], &[2.0, 4.0, 6.0])]
    );
    // shorter than the axis, and over all elements
    assert_eq!(
        run(net(&[int("axis", 0)]), &[0.0, 1.0]),
        [f32(&[1, 2], &[3.0, 4.0])]
    );
    assert_eq!(
        run(net(&[]), &[0.0, 1.0, 0.0, 1.0]),
        [f32(&[2], &[2.0, 4.0])]
    );
}

#[test]
fn a_range_may_be_computed_in_any_type() {
    let floats = Net::new("floats")
        .input("a", F, &[])
        .input("b", F, &[])
        .input("d", F, &[])
        .node("y", "Range", "a b d")
        .gives("y");
    assert_eq!(floats.cuts(), "extent");
    let run = |a, b, d| {
        let given = [
            ("a", f32(&[], &[a])),
            ("b", f32(&[], &[b])),
            ("d", f32(&[], &[d])),
        ];
        floats.run(&given).unwrap()
    };
    assert_eq!(run(1.0, 2.2, 0.5), [f32(&[3], &[1.0, 1.5, 2.0])]);
    assert_eq!(run(2.0, -1.0, -2.0), [f32(&[2], &[2.0, 0.0])]);
    assert_eq!(run(2.0, 3.0, -2.0), [f32(&[0], &[])]);
    assert_eq!(run(2.0, 3.0, 0.0), [f32(&[0], &[])]);
    let ints = Net::new("ints")
        .input("b", DType::I64, &[])
        .input("d", DType::I64, &[])
        .i64s("a", &[], &[10])
        .node("y", "Range", "a b d")
        .gives("y");
    let run = |b, d| {
        let given = [("b", i64(&[], &[b])), ("d", i64(&[], &[d]))];
        ints.run(&given).unwrap()
    };
    assert_eq!(run(6, -2), [i64(&[2], &[10, 8])]);
    assert_eq!(run(17, 3), [i64(&[3], &[10, 13, 16])]);
}

#[test]
fn ranges_and_constants_take_computed_extents() {
    let net = Net::new("range")
        .input("n", DType::I64, &[])
        .i64s("zero", &[], &[0])
        .i64s("one", &[], &[1])
        .node("m", "Add", "n one")
        .node("r", "Range", "zero m one")
        .i64s("shape", &[1], &[1])
        .node("l", "Reshape", "m shape")
        .node("c", "ConstantOfShape", "l")
        .gives("r c");
    let run = |n| net.run(&[("n", i64(&[], &[n]))]).unwrap();
    assert_eq!(run(2), [i64(&[3], &[0, 1, 2]), f32(&[3], &[0.0; 3])]);
    assert_eq!(run(-1), [i64(&[0], &[]), f32(&[0], &[])]);
}
