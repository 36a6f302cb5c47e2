//! Resampling of some axes. ONNX: Resize, Upsample.
//!
//! For an axis of input extent `in` and output extent `out`, output position `o` reads the input at
//! `x = coordinate(o)`, with `scale` as given by the model or `out / in`. Axes that are not resampled keep their
//! extent and read themselves.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// How an output position becomes an input position (ONNX `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoordinateMode {
    /// `(o + ½) / scale − ½`
    HalfPixel,
    /// As `HalfPixel`, centred on the exact, not the rounded, output extent.
    HalfPixelSymmetric,
    /// `HalfPixel`, but 0 if the output extent is 1.
    PytorchHalfPixel,
    /// `o · (in − 1) / (out − 1)`
    AlignCorners,
    /// `o / scale`
    Asymmetric,
    /// `(o + ½) / scale` (opset 10 "tf_half_pixel_for_nn")
    TfHalfPixelForNn,
}

/// How a position between elements is rounded (ONNX `nearest_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum NearestMode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interpolation {
    /// One element.
    Nearest(NearestMode),
    /// Two elements an axis; with `antialias`, all within the support when shrinking.
    Linear,
    /// Four elements an axis (Keys 1981) with this coefficient.
    Cubic {
        /// Coefficient `a`, usually −0.75.
        coefficient: f64,
        /// Whether weights outside the input are dropped and the rest renormalised.
        exclude_outside: bool,
    },
}

/// See the module. One entry an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// Output extents.
    pub dims: Vec<SymInt>,
    /// Scale of an axis if the model gives one; otherwise `out / in`.
    pub scales: Vec<Option<f32>>,
    /// How elements are combined.
    pub interpolation: Interpolation,
    /// How positions are computed.
    pub coordinates: CoordinateMode,
    /// Whether shrinking widens the support of linear and cubic filters.
    pub antialias: bool,
    /// `roi` start and end of each axis for `tf_crop_and_resize`, with the value outside.
    pub crop: Option<(Vec<(f32, f32)>, f32)>,
}

impl Operator for Resize {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        let rank = inputs[0].rank();
        if self.dims.len() != rank || self.scales.len() != rank {
            return Err(InferError::new(format!("needs one extent and scale for each of {rank} axes")));
        }
        if self.crop.as_ref().is_some_and(|c| c.0.len() != rank) {
            return Err(InferError::new(format!("needs one region for each of {rank} axes")));
        }
        cx.require_extents(&self.dims)?;
        Ok(vec![TensorType::new(inputs[0].dtype, self.dims.clone())])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        let scales: Vec<String> =
            self.scales.iter().map(|s| s.map_or("_".into(), |s| s.to_string())).collect();
        let mode = match self.interpolation {
            Interpolation::Nearest(m) => format!("nearest:{m:?}"),
            Interpolation::Linear => "linear".into(),
            Interpolation::Cubic { coefficient, exclude_outside } => {
                format!("cubic:{coefficient}:{exclude_outside}")
            }
        };
        Attributes::default()
            .syms("dims", &self.dims, symbols)
            .show("scales", format!("[{}]", scales.join(",")))
            .show("mode", mode)
            .show("coordinates", format!("{:?}", self.coordinates))
            .flag("antialias", self.antialias)
            .flag("crop", self.crop.is_some())
            .done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.dims.iter_mut().collect()
    }
}
