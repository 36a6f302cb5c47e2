//! The twin against the reference, the text of a source, and where vectors move.

use super::*;
use crate::oracle::{self, Oracle};
use bespoke_device::Arch;
use bespoke_reference::Number;

#[test]
fn twin_and_definition_agree() {
    for seed in 0..20 {
        for (t, sample) in cases(&mut Rng::new(seed)) {
            let oracle = Oracle::new(&sample);
            let args = oracle.args();
            let extents = t.extents(&args);
            let (x, x_view) = oracle.read("x", t.rank);
            let i = oracle.read("i", t.rank);
            let extras: Vec<_> = (1..t.epilogue.inputs().len())
                .map(|k| oracle.read(&format!("e{}", k - 1), t.rank))
                .collect();
            oracle.check(&extents, |p| {
                let zero = if t.data.is_float() {
                    Number::F(0.0)
                } else {
                    Number::I(0)
                };
                let offset = oracle::tuple(&args, "x", &i, p, t.tuple);
                let value = offset.map_or(zero, |o| x.get((x_view.at(p) + o) as usize));
                oracle::epilogue(&t.epilogue, &extras, value, p)
            });
        }
    }
}

/// What a kernel takes for granted where it moves vectors: every one begins at a multiple of its width, wherever the indices
/// lead, and its elements lie side by side.
#[test]
fn vectors_are_whole() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..160 {
        for (t, sample) in cases(&mut Rng::new(seed)) {
            let oracle = Oracle::new(&sample);
            let args = oracle.args();
            let width = t.width(&args);
            assert!(width <= t.vector() && width * t.data.size().unwrap() as i64 <= 16);
            seen.insert((t.data.size(), width));
            if width == 1 {
                continue;
            }
            let (extents, last) = (t.extents(&args), t.rank - 1);
            let i = oracle.read("i", t.rank);
            let views: Vec<(String, Strided)> = (0..t.extras().len())
                .map(|k| format!("e{k}"))
                .chain(["x".to_owned(), "y".to_owned()])
                .map(|name| (name.clone(), Strided::of(&args, &name, t.rank)))
                .collect();
            assert_eq!(extents[last] % width, 0);
            bespoke_reference::index::for_positions(&extents, |p| {
                assert_eq!(i.1.strides[last], 0, "one index for a vector");
                for (name, view) in &views {
                    let offset = match name == "x" {
                        true => oracle::tuple(&args, "x", &i, p, t.tuple).unwrap_or(0),
                        false => 0,
                    };
                    let at = view.at(p) + offset;
                    match view.strides[last] {
                        0 => assert!(name.starts_with('e')),
                        s => assert!(s == 1 && (at - p[last]) % width == 0, "{name} at {p:?}"),
                    }
                }
            });
        }
    }
    // vectors of every width have been seen, and single elements of every size
    for (size, widest) in [(1, 8), (2, 8), (4, 4), (8, 2)] {
        let mut width = widest;
        while width >= 1 {
            assert!(
                seen.contains(&(Some(size), width)),
                "{size} {width} {seen:?}"
            );
            width /= 2;
        }
    }
}

#[test]
fn the_operators_are_this_template() {
    use bespoke_ir::{Op, op};
    use bespoke_reference::{Tensor, eval_node};
    // Gather along axis 1 of [2, 3]: positions (before, index, index), data strides (3, 0, 0)
    let x = Tensor::from_i64(DType::F32, &[2, 3], &[0, 1, 2, 3, 4, 5]).unwrap();
    let i = Tensor::from_i64(DType::I64, &[2, 2], &[0, -1, 1, 7]).unwrap();
    let epilogue = Expr::identity(DType::F32);
    let t = Gather {
        rank: 3,
        tuple: 1,
        data: DType::F32,
        index: DType::I64,
        epilogue,
    };
    let mut args = Arguments::new(&t);
    random::ints(&mut args, "d", &[2, 2, 2]);
    random::view(
        &mut args,
        "y",
        0,
        &[4, 2, 1],
        SampleSlot::Write(vec![0; 32]),
    );
    random::view(
        &mut args,
        "x",
        0,
        &[3, 0, 0],
        SampleSlot::Read(x.to_bytes()),
    );
    random::view(
        &mut args,
        "i",
        0,
        &[0, 2, 1],
        SampleSlot::Read(i.to_bytes()),
    );
    args.int("n0", 3);
    args.int("x_t0", 1);
    let got = args.finish(Arc::new(t), 0.0).run_twin().unwrap();
    let want = eval_node(&Op::from(op::Gather { axis: 1 }), &[&x, &i], &[]).unwrap();
    assert_eq!(got[0], want[0].to_bytes());
}

#[test]
fn a_view_that_leaves_its_memory_is_refused() {
    let epilogue = Expr::identity(DType::F32);
    let t = Gather {
        rank: 1,
        tuple: 1,
        data: DType::F32,
        index: DType::I64,
        epilogue,
    };
    let mut args = Arguments::new(&t);
    random::ints(&mut args, "d", &[2]);
    random::view(&mut args, "y", 0, &[1], SampleSlot::Write(vec![0; 8]));
    random::view(&mut args, "x", 0, &[0], SampleSlot::Read(vec![0; 8]));
    random::view(&mut args, "i", 0, &[1], SampleSlot::Read(vec![0; 16]));
    args.int("n0", 3);
    args.int("x_t0", 1);
    let error = args.finish(Arc::new(t), 0.0).run_twin().unwrap_err();
    insta::assert_snapshot!(error, @"the host twin cannot run: view `x` reaches elements 0 to 2 of a tensor of 2");
}

#[test]
fn definitions_read_like_written_by_hand() {
    let epilogue = Expr::cast(DType::F16, DType::F32);
    let t = Gather {
        rank: 3,
        tuple: 1,
        data: DType::F16,
        index: DType::I64,
        epilogue,
    };
    let props = DeviceProps::preset(Arch::sm(89));
    insta::assert_snapshot!(t.definitions(&props), @r"
    constexpr int RANK = 3;
    #define EXTENTS {d0, d1, d2}
    #define CHANNELS_LAST (y_s1 == 1 && d1 > 1)
    constexpr int TUPLE = 1;
    #define INDEXED_EXTENTS {n0}
    #define INDEXED_STRIDES {x_t0}
    #define AT_i(p) (i_o + p[0] * i_s0 + p[1] * i_s1 + p[2] * i_s2)
    typedef long long INDEX;
    typedef float RESULT;
    #define AT_x(p) (x_o + p[0] * x_s0 + p[1] * x_s1 + p[2] * x_s2)
    #define AT_y(p) (y_o + p[0] * y_s0 + p[1] * y_s1 + p[2] * y_s2)
    __device__ __forceinline__ float epilogue(float x0) {
        const float t1 = (float)x0;
        return t1;
    }
    template <int V> struct Lanes { Words<sizeof(f16) * V> x; };
    #define ALONG_x x_s2
    #define FETCH_EXTRAS(lanes, p)
    #define UNPACK(lanes) const Pack<f16, V> x_v = from_words<f16, V>(lanes.x);
    #define FINISH(v, p) epilogue(load(x_v.at + (v)))
    #define VECTORS (VEC > 1 && d2 % VEC == 0 && i_s2 == 0 && x_t0 % VEC == 0 \
        && x_s2 == 1 && STARTS_WHOLE(x, x_o) && x_s0 % VEC == 0 && x_s1 % VEC == 0 \
        && y_s2 == 1 && STARTS_WHOLE(y, y_o) && y_s0 % VEC == 0 && y_s1 % VEC == 0)
    ");
}
