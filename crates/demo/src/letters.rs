//! What a line says: what goes into the recogniser, and how its output becomes text.
//!
//! The recogniser gives, for each step along the line, a probability for every letter and for a blank. The text is read
//! greedily: the best class of each step, repeats merged, blanks dropped (Graves et al. 2006, "Connectionist Temporal
//! Classification").

use crate::{Area, Page, Tensor};

/// The height that the recogniser reads, in pixels.
pub const HEIGHT: usize = 48;
/// The least width that gives the recogniser one step.
const MIN_WIDTH: usize = 8;

/// The recogniser's input for a line: `[1, 3, 48, W]`, as wide as the line's shape asks for.
///
/// # Panics
///
/// Never for a box of [`crate::lines::boxes`]; an empty area has no shape.
#[must_use]
pub fn input(page: &Page, area: Area) -> Tensor {
    let width = (area.width() * HEIGHT)
        .div_ceil(area.height())
        .max(MIN_WIDTH);
    let rows: Vec<Tap> = (0..HEIGHT)
        .map(|i| Tap::new(i, HEIGHT, area.height()))
        .collect();
    let columns: Vec<Tap> = (0..width)
        .map(|i| Tap::new(i, width, area.width()))
        .collect();
    let mut data = Vec::with_capacity(3 * HEIGHT * width);
    for channel in 0..3 {
        for row in &rows {
            for column in &columns {
                let at = |x: usize, y: usize| page.bgr(area.left + x, area.top + y, channel);
                let across = |y| column.mix(at(column.low, y), at(column.high, y));
                let value = row.mix(across(row.low), across(row.high));
                data.push((value / 255.0 - 0.5) / 0.5);
            }
        }
    }
    Tensor {
        dims: [1, 3, HEIGHT, width],
        data,
    }
}

/// Where an output pixel lies between two input pixels of one axis, centres being at halves.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl Tap {
    fn new(i: usize, out: usize, size: usize) -> Self {
        let last = (size - 1) as f64;
        let at = ((i as f64 + 0.5) * size as f64 / out as f64 - 0.5).clamp(0.0, last);
        let low = at.floor();
        Self {
            low: low as usize,
            high: (low as usize + 1).min(size - 1),
            weight: (at - low) as f32,
        }
    }

    fn mix(&self, low: f32, high: f32) -> f32 {
        low * (1.0 - self.weight) + high * self.weight
    }
}

/// The letters that the recogniser's classes stand for. Class 0 is the blank, the last one the space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charset(Vec<String>);

/// Text with how sure its weakest letter is.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The text, without spaces at its ends.
    pub text: String,
    /// The least probability of a letter that was kept; 0 without letters.
    pub weakest: f32,
}

impl Charset {
    /// From the model's metadata entry `character`, one letter a line.
    #[must_use]
    pub fn new(character: &str) -> Self {
        Self(
            character
                .split('\n')
                .chain([" "])
                .map(String::from)
                .collect(),
        )
    }

    /// How many classes the recogniser must have.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.0.len() + 1
    }

    /// Reads the recogniser's output: rows of [`Charset::classes`] probabilities, one a step. An incomplete last row is
    /// left out.
    #[must_use]
    pub fn read(&self, probabilities: &[f32]) -> Text {
        let mut text = String::new();
        let mut weakest = f32::INFINITY;
        let mut before = 0;
        for step in probabilities.chunks_exact(self.classes()) {
            // The first of equal ones, as the reference reads.
            let first = (0, f32::NEG_INFINITY);
            let best = step
                .iter()
                .copied()
                .enumerate()
                .fold(first, |a, b| if b.1 > a.1 { b } else { a });
            let (class, probability) = best;
            if class != 0 && class != before {
                text.push_str(&self.0[class - 1]);
                weakest = weakest.min(probability);
            }
            before = class;
        }
        let weakest = if weakest.is_finite() { weakest } else { 0.0 };
        Text {
            text: text.trim_matches(' ').to_string(),
            weakest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::committed;

    /// The box of the word "Fit", from which the reference data was made.
    const FIT: Area = Area {
        left: 514,
        top: 394,
        right: 581,
        bottom: 439,
    };

    #[test]
    fn the_input_is_that_of_the_reference_data() {
        let tensor = input(&committed::page(), FIT);
        assert_eq!(tensor.dims, [1, 3, 48, 72]);
        let expected = committed::floats("ppocrv4_rec/test_data_set_0/input_0.pb", 3 * 48 * 72);
        committed::assert_close(&tensor.data, &expected);
    }

    #[test]
    fn a_real_output_has_three_sure_letters() {
        let output = committed::floats("ppocrv4_rec/test_data_set_0/output_0.pb", 9 * 6625);
        // Every class is written as its number, because the letters are in the model and not here.
        let numbers: Vec<String> = (1..6624).map(|class| format!("<{class}>")).collect();
        let charset = Charset::new(&numbers.join("\n"));
        assert_eq!(charset.classes(), 6625);
        let read = charset.read(&output);
        assert_eq!(read.text.matches('<').count(), 3, "{read:?}");
        assert!(read.weakest > 0.9, "{read:?}");
    }

    /// Steps whose best class is each of these, among blank, a, b and space.
    fn steps(classes: &[usize]) -> Vec<f32> {
        let row = |best: usize| (0..4).map(move |class| if class == best { 0.7 } else { 0.1 });
        classes.iter().flat_map(|best| row(*best)).collect()
    }

    #[test]
    fn repeats_merge_unless_a_blank_is_between() {
        let charset = Charset::new("a\nb");
        let read = |classes: &[usize]| charset.read(&steps(classes)).text;
        assert_eq!(read(&[0, 1, 1, 0, 1, 2, 0]), "aab");
        assert_eq!(read(&[3, 1, 3, 2, 3]), "a b");
        assert_eq!(read(&[0, 0]), "");
        assert_eq!(charset.read(&steps(&[1])).weakest, 0.7);
        assert_eq!(charset.read(&[]).weakest, 0.0);
    }

    #[test]
    fn an_output_of_nonsense_is_no_panic() {
        let charset = Charset::new("a\nb");
        assert_eq!(charset.read(&[f32::NAN; 9]).text, "");
    }
}
