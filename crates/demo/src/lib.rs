//! Reading text from a page: all that happens around the two models.
//!
//! A detector marks where text is; a recogniser reads one line of any width. This crate turns a page into the detector's
//! input ([`lines::input`]), the detector's output into boxes ([`lines::boxes`]), a box into the recogniser's input
//! ([`letters::input`]) and the recogniser's output into text ([`letters::Charset::read`]). It knows no runtime: tensors
//! are slices of `f32`.
//!
//! Steps and constants are those of `models/demo/README.md`. Both models are of the PP-OCR family (Du et al. 2020,
//! "PP-OCR: A Practical Ultra Lightweight OCR System") and take images as BGR.

pub mod letters;
pub mod lines;
mod page;

pub use page::{Page, PageError};

/// A tensor that goes into a model, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extents: batch, channels (B, G, R), height, width.
    pub dims: [usize; 4],
    /// The elements.
    pub data: Vec<f32>,
}

/// A line of text on a page, in pixels; `right` and `bottom` lie just outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Column after the last.
    pub right: usize,
    /// Row after the last.
    pub bottom: usize,
}

impl Area {
    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.right - self.left
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.bottom - self.top
    }
}

/// What the tests of this crate read of the committed data.
#[cfg(test)]
mod committed {
    use super::*;

    fn path(name: &str) -> String {
        format!("{}/../../models/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// The committed page.
    pub(crate) fn page() -> Page {
        Page::open(path("demo/page.png").as_ref()).unwrap()
    }

    /// The last `count` floats of a stored tensor; its raw data is the message's last field.
    pub(crate) fn floats(name: &str, count: usize) -> Vec<f32> {
        let bytes = std::fs::read(path(&format!("data/{name}"))).unwrap();
        let raw = &bytes[bytes.len() - 4 * count..];
        raw.chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Asserts that two tensors agree but for rounding.
    pub(crate) fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 1e-5, "element {i}: {a} is not {b}");
        }
    }
}
