//! Where the lines of text are: what goes into the detector, and how its output becomes boxes.
//!
//! The detector says for each pixel how likely it belongs to text, and marks each line thinner than it is, so that lines
//! stay apart (Liao et al. 2020, "Real-time Scene Text Detection with Differentiable Binarization"). A box is grown back
//! by its area over its perimeter.

use crate::{Area, Page, Tensor};

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];
/// A pixel above it belongs to text.
const THRESHOLD: f32 = 0.3;
/// Thinner regions are noise, in pixels.
const MIN_SIDE: usize = 4;
/// What a region's pixels must reach on average.
const MIN_SCORE: f64 = 0.6;
/// How far a region grows back, as a multiple of area over perimeter.
const UNCLIP: f64 = 2.4;

/// The detector's input for a part of the page: `[1, 3, H, W]`.
#[must_use]
pub fn input(page: &Page, area: Area) -> Tensor {
    let (width, height) = (area.width(), area.height());
    let mut data = Vec::with_capacity(3 * width * height);
    for channel in 0..3 {
        for y in area.top..area.bottom {
            for x in area.left..area.right {
                data.push((page.bgr(x, y, channel) / 255.0 - MEAN[channel]) / STD[channel]);
            }
        }
    }
    Tensor {
        dims: [1, 3, height, width],
        data,
    }
}

/// The boxes of all lines, from top to bottom and then from left to right.
///
/// `probability` is the detector's output, rows of `width` elements; an incomplete last row is left out.
#[must_use]
pub fn boxes(probability: &[f32], width: usize) -> Vec<Area> {
    let height = probability.len().checked_div(width).unwrap_or(0);
    let mut seen: Vec<bool> = probability.iter().map(|p| !text(*p)).collect();
    let mut found = Vec::new();
    for start in 0..width * height {
        if seen[start] {
            continue;
        }
        let region = Region::fill(start, &mut seen, probability, width, height);
        found.extend(region.line(width, height));
    }
    found.sort_by_key(|area| (area.top, area.left));
    found
}

fn text(probability: f32) -> bool {
    probability > THRESHOLD
}

/// Pixels that hang together, corners included.
struct Region {
    area: Area,
    pixels: usize,
    sum: f64,
}

impl Region {
    fn fill(
        start: usize,
        seen: &mut [bool],
        probability: &[f32],
        width: usize,
        height: usize,
    ) -> Self {
        let (x, y) = (start % width, start / width);
        let area = Area {
            left: x,
            top: y,
            right: x + 1,
            bottom: y + 1,
        };
        let mut region = Self {
            area,
            pixels: 0,
            sum: 0.0,
        };
        let mut open = vec![start];
        seen[start] = true;
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            region.pixels += 1;
            region.sum += f64::from(probability[at]);
            let area = &mut region.area;
            area.left = area.left.min(x);
            area.top = area.top.min(y);
            area.right = area.right.max(x + 1);
            area.bottom = area.bottom.max(y + 1);
            for v in y.saturating_sub(1)..(y + 2).min(height) {
                for u in x.saturating_sub(1)..(x + 2).min(width) {
                    let next = v * width + u;
                    if !seen[next] {
                        seen[next] = true;
                        open.push(next);
                    }
                }
            }
        }
        region
    }

    /// The line that the region marks, if it is one.
    fn line(&self, width: usize, height: usize) -> Option<Area> {
        let (w, h) = (self.area.width(), self.area.height());
        if w.min(h) < MIN_SIDE || self.sum / (self.pixels as f64) < MIN_SCORE {
            return None;
        }
        let grow = ((w * h) as f64 * UNCLIP / (2 * (w + h)) as f64).round_ties_even() as usize;
        Some(Area {
            left: self.area.left.saturating_sub(grow),
            top: self.area.top.saturating_sub(grow),
            right: (self.area.right + grow).min(width),
            bottom: (self.area.bottom + grow).min(height),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::committed;

    #[test]
    fn the_input_is_that_of_the_reference_data() {
        let area = Area {
            left: 384,
            top: 192,
            right: 544,
            bottom: 256,
        };
        let tensor = input(&committed::page(), area);
        assert_eq!(tensor.dims, [1, 3, 64, 160]);
        let expected = committed::floats("ppocrv4_det/test_data_set_0/input_0.pb", 3 * 64 * 160);
        committed::assert_close(&tensor.data, &expected);
    }

    #[test]
    fn a_real_output_gives_the_box_of_its_line() {
        let output = committed::floats("ppocrv4_det/test_data_set_0/output_0.pb", 64 * 160);
        let boxes = boxes(&output, 160);
        assert_eq!(boxes.len(), 1, "{boxes:?}");
        // The letters of "No.7" reach from 421 to 510 and from 208 to 240 on the page.
        let Area {
            left,
            top,
            right,
            bottom,
        } = boxes[0];
        assert!(
            left <= 37 && right >= 126 && top <= 16 && bottom >= 48,
            "{boxes:?}"
        );
    }

    /// A map of one row of text a string; `#` is text, `+` doubtful.
    fn map(rows: &[&str]) -> (Vec<f32>, usize) {
        let value = |c| match c {
            '#' => 0.9,
            '+' => 0.4,
            _ => 0.1,
        };
        (
            rows.iter().flat_map(|r| r.chars().map(value)).collect(),
            rows[0].len(),
        )
    }

    #[test]
    fn regions_grow_and_are_ordered() {
        let (p, width) = map(&[
            "..............####..",
            "..............####..",
            "####..........####..",
            "####..........####..",
            "####................",
            "####................",
        ]);
        // 4 × 4 pixels grow by round(16 × 2.4 / 16) = 2 on each side, as far as the map goes.
        let right = Area {
            left: 12,
            top: 0,
            right: 20,
            bottom: 6,
        };
        let left = Area {
            left: 0,
            top: 0,
            right: 6,
            bottom: 6,
        };
        assert_eq!(boxes(&p, width), [left, right]);
    }

    #[test]
    fn corners_connect_and_noise_is_dropped() {
        let (p, width) = map(&[
            "##......++++........",
            "##......++++......##",
            "..##....++++......##",
            "..##....++++........",
        ]);
        // One region of two squares that touch at a corner; a doubtful one; one that is too small.
        assert_eq!(
            boxes(&p, width),
            [Area {
                left: 0,
                top: 0,
                right: 6,
                bottom: 4
            }]
        );
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(boxes(&[], 0), []);
        assert_eq!(boxes(&[0.9; 7], 0), []);
        assert_eq!(boxes(&[f32::NAN; 64], 8), []);
    }
}
