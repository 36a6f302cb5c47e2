//! Random runs and the meaning of templates that map rows to rows: softmax and normalisation.
//!
//! They share a shape: a prologue, something that needs the whole row, an epilogue; operands `x0 …` and `e0 …` and the
//! result `y`, all viewed over the whole space.

use std::sync::Arc;

use bespoke_ir::{DType, Expr};

use crate::arguments::{self, Arguments};
use crate::rows::{self, Rows};
use crate::sample::{self, Rng, Sample};
use crate::spec::Template;

/// A random run of the template that `make` makes of a random prologue and epilogue.
pub(crate) fn sample<T: Template + Clone + 'static>(
    rng: &mut Rng,
    space: Rows,
    make: impl FnOnce(Expr, Expr) -> T,
) -> (T, Sample) {
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
    let epilogue = sample::expression(rng, &types, result);
    let template = make(prologue, epilogue);

    let rank = space.rank();
    let mut extents = sample::extents(rng, rank, 20_000);
    // rows of all lengths: one warp, several, and more than registers hold
    if rng.chance(3) && rank > 0 {
        extents[rank - 1] = *rng.pick(&[513, 2048, 5000, 20_000]);
        extents[..rank - 1]
            .iter_mut()
            .for_each(|d| *d = (*d).min(2));
    }
    let mut b = Arguments::new(&template);
    for (a, &d) in extents.iter().enumerate() {
        b.int(&format!("d{a}"), d);
    }
    let all: Vec<usize> = (0..rank).collect();
    let plain = rng.chance(2);
    let reads = rows::names("x", &operands)
        .into_iter()
        .chain(rows::names("e", &extras))
        .map(|n| n.0);
    for name in std::iter::once("y".to_owned()).chain(reads) {
        if plain {
            b.tensor_in_order(rng, &name, &extents, &[], &all);
        } else {
            b.tensor(rng, &name, &extents, &all);
        }
    }
    let tolerance = arguments::tolerance(result).max(arguments::tolerance(ty));
    (template.clone(), b.finish(Arc::new(template), tolerance))
}

/// Compares the twin of a sample with its definition in `f64`, row by row; `map` is what is done to a row between
/// prologue and epilogue.
#[cfg(test)]
pub(crate) fn check(
    sample: &Sample,
    space: Rows,
    prologue: &Expr,
    epilogue: &Expr,
    map: impl Fn(&mut [f64]),
) {
    use crate::expr::regions;
    use bespoke_reference::Number;
    use bespoke_reference::expr::eval_expr;

    let oracle = crate::oracle::Oracle::new(sample);
    let rank = space.rank();
    let extents = oracle.args().ints("d", rank);
    let read = |prefix: &str, n: usize| -> Vec<_> {
        (0..n)
            .map(|i| oracle.read(&format!("{prefix}{i}"), rank))
            .collect()
    };
    let (x, e) = (
        read("x", prologue.inputs().len()),
        read("e", epilogue.inputs().len().saturating_sub(1)),
    );
    let mut results = std::collections::HashMap::new();
    let whole: regions::Region = extents.iter().map(|&d| 0..d).collect();
    regions::for_each_row(&whole[..space.outer], rank, |outer, _| {
        let mut region = whole.clone();
        for (r, &i) in region.iter_mut().zip(outer) {
            *r = i..i + 1;
        }
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        regions::for_each_row(&region, rank, |position, _| {
            let inputs: Vec<Number> = x
                .iter()
                .map(|(t, v)| t.get(v.at(position) as usize))
                .collect();
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
}
