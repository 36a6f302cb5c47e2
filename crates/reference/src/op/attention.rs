//! Scaled dot product attention.

use bespoke_ir::op::Attention;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{broadcast_strides, flat, map_positions, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for Attention {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let rank = q.rank();
        let (head, row, last) = (rank - 3, rank - 2, rank - 1);
        // the operator's type rule gives every head of keys the same number of heads of queries
        let group = q.dims()[head] / k.dims()[head].max(1);
        let (keys, size) = (k.dims()[row], q.dims()[last]);
        let mut scores_dims = q.dims().to_vec();
        scores_dims[last] = keys;
        let mask = inputs.get(3).map(|mask| (*mask, broadcast_strides(mask.dims(), &scores_dims)));
        let (q_strides, k_strides, v_strides) = (strides(q.dims()), strides(k.dims()), strides(v.dims()));
        let at = |tensor: &Tensor, strides: &[i64], position: &[i64]| tensor.get(flat(strides, position)).to_f64();

        // for each row of queries: the shares of the values
        let shares = map_positions(&scores_dims[..last], |p| {
            let mut query = p.to_vec();
            query.push(0);
            let mut key = query.clone();
            key[head] = p[head] / group;
            let mut scores = Vec::new();
            for n in 0..keys {
                key[row] = n;
                let mut score = 0.0;
                for d in 0..size {
                    (query[last], key[last]) = (d, d);
                    score += at(q, &q_strides, &query) * at(k, &k_strides, &key);
                }
                score *= self.scale;
                if let Some((mask, strides)) = &mask {
                    query[last] = n;
                    match mask.get(flat(strides, &query)) {
                        Number::F(x) => score += x,
                        Number::I(0) => score = self.fill,
                        Number::I(_) => {}
                    }
                }
                scores.push(score);
            }
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut shares: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|x| *x /= sum);
            if self.undefined_as_zero && shares.iter().any(|x| x.is_nan()) {
                shares.fill(0.0);
            }
            Ok::<_, ReferenceError>(shares)
        })?;

        let rows = strides(&scores_dims[..last]);
        let elements = map_positions(cx.dims(), |p| {
            let mut value = p.to_vec();
            value[head] = p[head] / group;
            let shares = &shares[flat(&rows, &p[..last])];
            let mut sum = 0.0;
            for (n, share) in shares.iter().enumerate() {
                value[row] = n as i64;
                sum += share * at(v, &v_strides, &value);
            }
            Ok::<_, ReferenceError>(Number::F(sum))
        })?;
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::DType;

    const PLAIN: Attention = Attention { scale: 2.0, fill: f64::NEG_INFINITY, undefined_as_zero: false };

    #[test]
    fn rows_are_means_of_values() {
        let third = 3f64.ln() / 2.0;
        // two heads of queries read the only head of keys
        let q = f32s(&[2, 1, 1], &[1.0, 0.0]);
        let (k, v) = (f32s(&[1, 2, 1], &[0.0, third]), f32s(&[1, 2, 2], &[4.0, 8.0, 8.0, 0.0]));
        near(&eval(PLAIN, &[&q, &k, &v]), &[7.0, 2.0, 6.0, 4.0], 1e-5);
        let mask = f32s(&[2, 1, 2], &[0.0, -2.0 * third, f64::NEG_INFINITY, 5.0]);
        near(&eval(PLAIN, &[&q, &k, &v, &mask]), &[6.0, 4.0, 8.0, 0.0], 1e-5);
    }

    #[test]
    fn a_row_without_keys_is_undefined_or_zero() {
        let (q, k) = (f32s(&[1, 2, 1], &[1.0, 1.0]), f32s(&[1, 2, 1], &[1.0, 2.0]));
        let v = f32s(&[1, 2, 1], &[4.0, 8.0]);
        let mask = Tensor::from_i64(DType::Bool, &[2, 2], &[1, 0, 0, 0]).unwrap();
        let y = eval(PLAIN, &[&q, &k, &v, &mask]).to_f64s();
        assert!(y[0] == 4.0 && y[1].is_nan(), "{y:?}");
        let zero = Attention { undefined_as_zero: true, ..PLAIN };
        near(&eval(zero, &[&q, &k, &v, &mask]), &[4.0, 0.0], 0.0);
        // with a finite number instead, the masked row is a plain mean
        let finite = Attention { fill: -1e4, ..PLAIN };
        near(&eval(finite, &[&q, &k, &v, &mask]), &[4.0, 6.0], 1e-6);
        let none = f32s(&[1, 0, 1], &[]);
        near(&eval(PLAIN, &[&q, &none, &none]), &[0.0, 0.0], 0.0);
    }
}
