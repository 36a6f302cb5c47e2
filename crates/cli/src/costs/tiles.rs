//! Tiles beside what their cost model expects of them, for `bespoke costs --tiles`.

use std::fmt::Write as _;

use bespoke::runtime::TileCost;
use serde::Serialize;

use crate::bench::report::time;
use crate::bench::statistics::{ascending, percentile};

/// A tile of a kind of step; those of one kind follow each other, the one in use first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TileRow {
    /// Number of the kind at this shape.
    pub(crate) kind: usize,
    /// Names of its steps.
    pub(crate) steps: Vec<String>,
    /// Template, options and what is baked in.
    pub(crate) kernel: String,
    /// The tile.
    pub(crate) tile: String,
    /// What the model expects of a launch.
    pub(crate) expected_ms: f64,
    /// The median of the timed launches.
    pub(crate) ms: f64,
    /// The least time that the device needs for the work.
    pub(crate) floor_ms: f64,
}

/// Rows of measurements.
pub(crate) fn rows(costs: &[TileCost]) -> Vec<TileRow> {
    let row = |cost: &TileCost| TileRow {
        kind: cost.kind,
        steps: cost.steps.clone(),
        kernel: cost.kernel.clone(),
        tile: cost.tile.clone(),
        expected_ms: cost.expected_ms,
        ms: percentile(&ascending(&cost.ms), 50.0).unwrap_or(0.0),
        floor_ms: cost.floor_ms,
    };
    costs.iter().map(row).collect()
}

/// The kinds, those first whose steps take longest together, each with its tiles, the fastest first.
fn kinds(rows: &[TileRow]) -> Vec<Vec<(usize, &TileRow)>> {
    let mut kinds: Vec<Vec<(usize, &TileRow)>> = Vec::new();
    for row in rows {
        match kinds.last_mut() {
            Some(kind) if kind[0].1.kind == row.kind => kind.push((kind.len(), row)),
            _ => kinds.push(vec![(0, row)]),
        }
    }
    let cost = |kind: &[(usize, &TileRow)]| kind[0].1.ms * kind[0].1.steps.len() as f64;
    kinds.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    for kind in &mut kinds {
        kind.sort_by(|a, b| a.1.ms.total_cmp(&b.1.ms));
    }
    kinds
}

/// A line for each tile below one for each kind; empty if there are none.
pub(crate) fn text(rows: &[TileRow]) -> String {
    let mut out = String::new();
    for kind in kinds(rows) {
        let first = kind[0].1;
        // writing to a String cannot fail
        let _ = write!(
            out,
            "\n  tiles of {} steps, floor {}: {}",
            first.steps.len(),
            time(first.floor_ms),
            first.kernel
        );
        for (place, row) in kind {
            let _ = write!(
                out,
                "\n   {:>9}  expected {:>9}  {} {}",
                time(row.ms),
                time(row.expected_ms),
                if place == 0 { "in use" } else { "      " },
                row.tile
            );
        }
    }
    out
}

/// A table of all tiles; empty if there are none.
pub(crate) fn markdown(rows: &[TileRow]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "\n| kind | steps | time | expected | floor | in use | tile | kernel |\n|--:|--:|--:|--:|--:|---|---|---|\n",
    );
    for (number, kind) in kinds(rows).into_iter().enumerate() {
        for (place, row) in kind {
            // writing to a String cannot fail
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | `{}` | `{}` |",
                number + 1,
                row.steps.len(),
                time(row.ms),
                time(row.expected_ms),
                time(row.floor_ms),
                if place == 0 { "yes" } else { "" },
                row.tile,
                row.kernel.replace('|', "\\|")
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: usize, steps: usize, tile: &str, ms: f64) -> TileRow {
        TileRow {
            kind,
            steps: vec!["s".into(); steps],
            kernel: format!("k{kind} |"),
            tile: tile.into(),
            expected_ms: 1.0,
            ms,
            floor_ms: 0.5,
        }
    }

    #[test]
    fn the_kind_that_takes_longest_comes_first_and_of_each_the_fastest_tile() {
        let rows = [
            row(0, 1, "a", 2.0),
            row(0, 1, "b", 1.5),
            row(1, 4, "c", 1.0),
        ];
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        assert!(
            lines[0].starts_with("tiles of 4 steps, floor 500 µs: k1"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("1.00 ms") && lines[1].ends_with("in use c"),
            "{text}"
        );
        assert!(
            lines[3].starts_with("1.50 ms") && lines[3].ends_with(" b"),
            "{text}"
        );
        assert!(lines[4].ends_with("in use a"), "{text}");
        let markdown = markdown(&rows);
        assert!(
            markdown.contains("| 2 | 1 | 2.00 ms | 1.00 ms | 500 µs | yes | `a` | `k0 \\|` |"),
            "{markdown}"
        );
    }

    #[test]
    fn without_tiles_nothing_is_said() {
        assert_eq!(text(&[]) + &markdown(&[]), "");
    }
}
