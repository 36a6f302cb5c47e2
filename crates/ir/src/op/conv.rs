//! Convolution over any number of spatial axes.
//!
//! `x: [N, C, d…]`, `w: [K, C/groups, k…]`, result `[N, K, o…]` with
//! `o = floor((d + begin + end − dilation·(k−1) − 1) / stride) + 1` (ONNX Conv). Pads may be symbolic, since
//! `auto_pad=SAME_*` depends on the extent. A bias is a [`super::Map`] behind it.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// A window that slides over the spatial axes, one entry an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Steps between windows.
    pub strides: Vec<i64>,
    /// Distance between the elements of a window.
    pub dilations: Vec<i64>,
    /// Elements added before and after each axis.
    pub pads: Vec<(SymInt, SymInt)>,
}

impl Window {
    /// A dense window of stride 1 without padding.
    pub fn unit(axes: usize) -> Self {
        Window {
            strides: vec![1; axes],
            dilations: vec![1; axes],
            pads: vec![(SymInt::constant(0), SymInt::constant(0)); axes],
        }
    }

    pub(crate) fn check(&self, axes: usize) -> Result<(), InferError> {
        if [self.strides.len(), self.dilations.len(), self.pads.len()] != [axes; 3] {
            return Err(InferError::new(format!(
                "strides, dilations and pads must have one entry for each of {axes} spatial axes"
            )));
        }
        if self.strides.iter().chain(&self.dilations).any(|&v| v < 1) {
            return Err(InferError::new("strides and dilations must be at least 1"));
        }
        Ok(())
    }

    /// Number of windows along `axis` for an extent and a kernel extent; `ceil` rounds up (pooling's `ceil_mode`).
    pub fn extent(&self, axis: usize, input: &SymInt, kernel: &SymInt, ceil: bool) -> SymInt {
        let (stride, dilation) = (self.strides[axis], self.dilations[axis]);
        let reach = (kernel.clone() - 1) * SymInt::constant(dilation) + 1;
        let (begin, end) = &self.pads[axis];
        let room = input.clone() + begin + end - reach;
        let stride_sym = SymInt::constant(stride);
        if !ceil {
            return room.floor_div(&stride_sym) + 1;
        }
        // the last window must begin inside the input or its leading pad
        let up = room.ceil_div(&stride_sym) + 1;
        let last_start = (input.clone() + begin - 1).floor_div(&stride_sym) + 1;
        SymInt::min(&up, &last_start)
    }

    pub(crate) fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.pads.iter_mut().flat_map(|(begin, end)| [begin, end]).collect()
    }

    pub(crate) fn attributes(&self, symbols: &SymbolTable) -> Attributes {
        let pads: Vec<SymInt> = self
            .pads
            .iter()
            .map(|p| p.0.clone())
            .chain(self.pads.iter().map(|p| p.1.clone()))
            .collect();
        Attributes::default()
            .list("strides", &self.strides)
            .syms("pads", &pads, symbols)
            .list("dilations", &self.dilations)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// The window.
    pub window: Window,
    /// Channels are split into this many independent convolutions.
    pub groups: i64,
}

impl Operator for Conv {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (x, w) = (inputs[0], inputs[1]);
        if x.rank() < 3 || w.rank() != x.rank() {
            return Err(InferError::new(format!(
                "needs data and weights of equal rank of at least 3, has {} and {}",
                x.rank(),
                w.rank()
            )));
        }
        if x.dtype != w.dtype || !x.dtype.is_float() {
            return Err(InferError::new(format!("cannot convolve {} with {}", x.dtype, w.dtype)));
        }
        let axes = x.rank() - 2;
        self.window.check(axes)?;
        if self.groups < 1 {
            return Err(InferError::new(format!("groups is {}", self.groups)));
        }
        cx.require_equal("channels", &x.dims[1], &(w.dims[1].clone() * SymInt::constant(self.groups)))?;
        let left = w.dims[0].modulo(&SymInt::constant(self.groups));
        let what = format!("filters that {} groups leave and none", self.groups);
        cx.require_equal(&what, &left, &SymInt::constant(0))?;
        let mut dims = vec![x.dims[0].clone(), w.dims[0].clone()];
        for i in 0..axes {
            let extent = self.window.extent(i, &x.dims[2 + i], &w.dims[2 + i], false);
            cx.require_at_least("the output extent", &extent, 0)?;
            dims.push(extent.simplify(cx.symbols));
        }
        Ok(vec![TensorType::new(x.dtype, dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        self.window.attributes(symbols).show("groups", self.groups).done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.window.extents_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sym::{Symbol, SymbolOrigin};
    use crate::{DType, Graph};

    #[test]
    fn output_extents_follow_the_standard() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[1, 8, 13, 20]));
        let w = g.add_input("w", TensorType::fixed(DType::F32, &[16, 4, 3, 5]));
        let window = Window {
            strides: vec![2, 3],
            dilations: vec![2, 1],
            pads: vec![(1.into(), 0.into()), (2.into(), 2.into())],
        };
        let y = g.add1("y", Conv { window, groups: 2 }, &[x, w]).unwrap();
        assert_eq!(g.ty(y).static_dims().unwrap(), [1, 16, 5, 7]);
    }

    #[test]
    fn filters_must_divide_into_groups() {
        let conv = || Conv { window: Window::unit(1), groups: 3 };
        let typed = |k: SymInt, g: &mut Graph| {
            let x = g.add_input("x", TensorType::fixed(DType::F32, &[1, 6, 9]));
            let w = g.add_input("w", TensorType::new(DType::F32, vec![k, 2.into(), 1.into()]));
            g.add("y", conv(), &[x, w])
        };
        let error = typed(SymInt::constant(11), &mut Graph::new("t")).unwrap_err().to_string();
        assert!(error.contains("3 groups") && error.contains("2 and 0"), "{error}");
        assert!(typed(SymInt::constant(12), &mut Graph::new("t")).is_ok());
        let mut g = Graph::new("t");
        let k = SymInt::symbol(g.symbols.add(Symbol::new("k", SymbolOrigin::Free)));
        typed(k, &mut g).unwrap();
        let holds = |k| g.guards.iter().all(|g| g.holds(&[k]));
        assert!(holds(12) && !holds(11));
    }
}
