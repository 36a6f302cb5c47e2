//! The models that whole-model tests run, where they are, and inputs for them.
//!
//! A model is `NAME/model.onnx` or `small/NAME/model.onnx` in the folder that `BESPOKE_MODELS` names (as staged for GPU
//! machines), `target/models/NAME/model.onnx` or `models/small/NAME/model.onnx` in the source tree or the current folder.
//! Inputs are made here, from nothing but their extents, so that any shape can be run.

use std::path::{Path, PathBuf};

use bespoke_runtime::Tensor;

/// The inputs of a run, by name.
pub(crate) type Inputs = Vec<(&'static str, Tensor)>;

/// A model and the shapes it is run at.
pub(crate) struct Model {
    /// Its folder's name.
    pub(crate) name: &'static str,
    /// Two extents a shape; `static` tunes for the first.
    pub(crate) shapes: [[i64; 2]; 10],
    /// The inputs of a shape.
    pub(crate) inputs: fn([i64; 2]) -> Result<Inputs, String>,
}

/// A transformer encoder in `f16`: token numbers and a mask, over batch and sequence.
pub(crate) const BERT: Model = Model {
    name: "bert",
    shapes: [
        [2, 24],
        [1, 37],
        [1, 2],
        [3, 16],
        [2, 128],
        [4, 9],
        [1, 64],
        [2, 33],
        [5, 7],
        [1, 100],
    ],
    inputs: tokens,
};

/// A recogniser of text lines in `f32`: images 48 high, over batch and width.
pub(crate) const RECOGNISER: Model = Model {
    name: "ppocrv4_rec",
    shapes: [
        [1, 96],
        [1, 200],
        [2, 64],
        [1, 33],
        [1, 320],
        [3, 40],
        [1, 48],
        [2, 111],
        [1, 8],
        [1, 150],
    ],
    inputs: lines,
};

fn tokens([batch, length]: [i64; 2]) -> Result<Inputs, String> {
    let ids: Vec<i64> = (0..batch * length).map(|i| (i * 37 + 11) % 500).collect();
    // every row but the first ends in padding
    let mask: Vec<i64> = (0..batch * length)
        .map(|i| i64::from(i / length == 0 || i % length <= length / 2))
        .collect();
    let tensor = |values: &[i64]| Tensor::from_i64(&[batch, length], values);
    let words = |e: bespoke_runtime::TensorError| e.to_string();
    Ok(vec![
        ("input_ids", tensor(&ids).map_err(words)?),
        ("attention_mask", tensor(&mask).map_err(words)?),
    ])
}

fn lines([batch, width]: [i64; 2]) -> Result<Inputs, String> {
    let pixels: Vec<f32> = (0..batch * 3 * 48 * width)
        .map(|i| {
            let (x, y) = (i % width, i / width % 48);
            let stroke = if (x / 5 + y / 9) % 3 == 0 { 1.2 } else { 0.0 };
            ((i * 13 + 5) % 31) as f32 / 40.0 - 0.9 + stroke
        })
        .collect();
    let tensor = Tensor::from_f32(&[batch, 3, 48, width], &pixels);
    Ok(vec![("x", tensor.map_err(|e| e.to_string())?)])
}

impl Model {
    /// Its file, or what to do to have it.
    pub(crate) fn file(&self) -> Result<PathBuf, String> {
        let staged = std::env::var_os("BESPOKE_MODELS").map(PathBuf::from);
        let staged = staged.iter().flat_map(|f| [f.clone(), f.join("small")]);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let trees = [source, PathBuf::from(".")];
        let trees = trees
            .iter()
            .flat_map(|t| [t.join("target/models"), t.join("models/small")]);
        staged
            .chain(trees)
            .map(|folder| folder.join(self.name).join("model.onnx"))
            .find(|file| file.is_file())
            .ok_or_else(|| {
                format!(
                    "the model {} is not here: `cargo xtask models` fetches it, BESPOKE_MODELS names the folder it is in",
                    self.name
                )
            })
    }
}
