//! Integers that come with the arguments, as a tensor: extents that a model computes with.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::{DType, Expr};

use crate::arguments::Arguments;
use crate::expr::host::Function;
use crate::expr::lanes::{self, Elements, ElementsMut, LaneMut, View};
use crate::sample::{Rng, Sample, SampleSlot};
use crate::source::{cuda_compute_type, kernel_text};
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};

/// See the module.
///
/// Arguments `v0 … v{count-1}` are written to the result `y`, viewed over one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Ints {
    /// Element type of the result.
    pub dtype: DType,
    /// Number of integers.
    pub count: usize,
}

impl Template for Ints {
    fn name(&self) -> &'static str {
        "ints"
    }

    fn describe(&self) -> String {
        format!("{} count={}", self.dtype, self.count)
    }

    fn params(&self) -> Vec<Param> {
        let mut params: Vec<Param> = (0..self.count)
            .map(|i| Param::wide(format!("v{i}")))
            .collect();
        params.extend(view::write("y", self.dtype, 1));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "ints.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::from("#define STORE_ALL");
        for i in 0..self.count {
            // writing to a String cannot fail
            let _ = write!(
                out,
                " \\\n    store(y + (y_o + {i} * y_s0), ({})v{i});",
                cuda_compute_type(self.dtype)
            );
        }
        out.push('\n');
        out
    }

    fn tiles(&self, _: Option<&Args<'_>>, _: &DeviceProps) -> Vec<Tile> {
        vec![Tile::new(&[("THREADS", 32)])]
    }

    fn geometry(&self, _: &Tile, _: Option<&Args<'_>>, _: &DeviceProps) -> LaunchConfig {
        LaunchConfig {
            grid: [1, 1, 1],
            block: 32,
            shared_bytes: 0,
        }
    }

    fn cost(&self, _: &Args<'_>) -> Cost {
        let bytes = self.count as f64 * f64::from(self.dtype.bits()) / 8.0;
        Cost {
            operations: 0.0,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let values = args.ints("v", self.count);
        let (mut writes, _) = lanes::split_operands(operands);
        let Some(y) = writes.pop() else {
            return Err(TwinError("the result is missing".to_owned()));
        };
        let mut y = ElementsMut::of(self.dtype, y)?;
        let out = Strided::of(args, "y", 1);
        let extents = [self.count as i64];
        lanes::check("y", &out, &extents, y.len())?;
        let from = View::new(
            "v",
            Elements::I64(&values),
            Strided {
                offset: 0,
                strides: vec![1],
            },
            &extents,
        )?;
        let convert = Function::new(&Expr::cast(DType::I64, self.dtype), vec![from]);
        let mut lane = LaneMut {
            elements: &mut y,
            start: out.offset,
            stride: out.strides[0],
        };
        convert.worker().run_views(&[0], 0, self.count, &mut lane);
        Ok(())
    }
}

/// Random runs.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    (0..2)
        .map(|_| {
            let dtype = *rng.pick(&[DType::I64, DType::I32]);
            let t = Ints {
                dtype,
                count: rng.int(0, 9) as usize,
            };
            let mut b = Arguments::new(&t);
            for i in 0..t.count {
                let v = rng.int(-1_000_000_000, 1_000_000_000);
                b.int(&format!("v{i}"), v);
            }
            b.int("y_o", 2);
            b.int("y_s0", 1);
            b.set(
                "y",
                SampleSlot::Write(vec![0; (t.count + 2) * dtype.size().unwrap_or(8)]),
            );
            b.finish(Arc::new(t), 0.0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_elements() {
        let t = Ints {
            dtype: DType::I32,
            count: 3,
        };
        let mut b = Arguments::new(&t);
        for (name, v) in [
            ("v0", 7),
            ("v1", -1),
            ("v2", 1 << 20),
            ("y_o", 1),
            ("y_s0", 1),
        ] {
            b.int(name, v);
        }
        b.set("y", SampleSlot::Write(vec![0; 16]));
        let y = b.finish(Arc::new(t), 0.0).run_twin().unwrap();
        let y: Vec<i32> = y[0]
            .chunks(4)
            .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(y, [0, 7, -1, 1 << 20]);
    }

    #[test]
    fn definitions_of_two_numbers() {
        let t = Ints {
            dtype: DType::I64,
            count: 2,
        };
        let props = DeviceProps::preset(bespoke_device::Arch::sm(89));
        insta::assert_snapshot!(t.definitions(&props));
    }
}
