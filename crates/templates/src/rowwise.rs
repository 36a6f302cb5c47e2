//! Random expressions and the meaning of templates that map rows to rows: softmax and normalisation.

use bespoke_ir::{DType, Expr};

#[cfg(test)]
use crate::framed::Framed;
#[cfg(test)]
use crate::sample::Sample;
use crate::sample::{self, Rng};

/// A random prologue and epilogue.
pub(crate) fn expressions(rng: &mut Rng) -> (Expr, Expr) {
    use DType::*;
    let ty = *rng.pick(&[F32, F32, F16, BF16, F64]);
    let operands: Vec<DType> = (0..rng.int(1, 2))
        .map(|_| *rng.pick(&[ty, ty, F32]))
        .collect();
    let extras: Vec<DType> = (0..rng.int(0, 2))
        .map(|_| *rng.pick(&[ty, F32, I32]))
        .collect();
    let prologue = if operands == [ty] {
        Expr::identity(ty)
    } else {
        sample::expression(rng, &operands, ty)
    };
    let types: Vec<DType> = std::iter::once(ty).chain(extras.iter().copied()).collect();
    let result = *rng.pick(&[ty, ty, F32]);
    (prologue, sample::expression(rng, &types, result))
}

/// Puts a random residual in front of a prologue: what that computed is stored, now and then in a narrower type.
pub(crate) fn residual(rng: &mut Rng, prologue: &mut Expr) -> Expr {
    let value = prologue.dtype();
    let stored = match value {
        DType::F32 => *rng.pick(&[value, DType::F16, DType::BF16]),
        _ => value,
    };
    let after = match stored == value {
        true => Expr::identity(value),
        false => Expr::cast(stored, value),
    };
    std::mem::replace(prologue, after).then_cast(stored)
}

/// Compares the twin of a sample with its definition in `f64`, row by row; `map` is what is done to a row between
/// prologue and epilogue.
#[cfg(test)]
pub(crate) fn check(sample: &Sample, frame: Framed<'_>, map: impl Fn(&mut [f64])) {
    use crate::expr::regions;
    use bespoke_reference::Number;
    use bespoke_reference::expr::eval_expr;

    let Framed {
        space,
        residual,
        prologue,
        epilogue,
        ..
    } = frame;
    let oracle = crate::oracle::Oracle::new(sample);
    let rank = space.rank();
    let extents = oracle.args().ints("d", rank);
    let read = |prefix: &str, n: usize| -> Vec<_> {
        (0..n)
            .map(|i| oracle.read(&format!("{prefix}{i}"), rank))
            .collect()
    };
    let (x, e) = (
        read("x", frame.inputs().len()),
        read("e", frame.extras().len()),
    );
    let mut results = std::collections::HashMap::new();
    let mut stored = std::collections::HashMap::new();
    let whole: regions::Region = extents.iter().map(|&d| 0..d).collect();
    regions::for_each_row(&whole[..space.outer], rank, |outer, _| {
        let mut region = whole.clone();
        for (r, &i) in region.iter_mut().zip(outer) {
            *r = i..i + 1;
        }
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        regions::for_each_row(&region, rank, |position, _| {
            let mut inputs: Vec<Number> = x
                .iter()
                .map(|(t, v)| t.get(v.at(position) as usize))
                .collect();
            if let Some(residual) = residual {
                let z = eval_expr(residual, &inputs, position, &mut Vec::new());
                let z = z.cast(residual.dtype());
                stored.insert(position.to_vec(), z);
                inputs = vec![z];
            }
            positions.push(position.to_vec());
            values.push(eval_expr(prologue, &inputs, position, &mut Vec::new()).to_f64());
        });
        map(&mut values);
        for (p, v) in positions.into_iter().zip(values) {
            let mut inputs = vec![Number::F(v)];
            inputs.extend(e.iter().map(|(t, v)| t.get(v.at(&p) as usize)));
            let y = eval_expr(epilogue, &inputs, &p, &mut Vec::new());
            results.insert(p, y);
        }
    });
    oracle.check(&extents, |p| results[p]);
    if residual.is_some() {
        oracle.check_result("z", &extents, |p| stored[p]);
    }
}
