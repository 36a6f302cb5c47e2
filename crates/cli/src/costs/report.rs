//! The cost table for people and for scripts: text, the JSON document, CSV, Markdown.
//!
//! The document's `schema_version` is 1; fields are only ever added within a version. Times are in milliseconds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::table::{Kernel, Point, Row, Sums, Table};
use super::tiles;
use crate::bench::report::time;
use crate::console::bytes;
use crate::export::{json, save};
use crate::failure::Failure;

/// What `--json` and `--export-json` show.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) schema_version: u32,
    pub(crate) version: &'static str,
    pub(crate) model: &'a Path,
    /// Where it ran.
    pub(crate) device: String,
    /// What kernels were compiled for; `null` if they were not.
    pub(crate) arch: Option<String>,
    /// Compile threads.
    pub(crate) workers: usize,
    #[serde(flatten)]
    pub(crate) table: Table,
    /// What is missing from the table, and why.
    pub(crate) notes: Vec<String>,
    pub(crate) exit_code: u8,
}

/// Files to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports {
    pub(crate) json: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) markdown: Option<PathBuf>,
}

impl Exports {
    /// Writes the files anew; called after every shape, so that a command that is stopped leaves what it has.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub(crate) fn write(&self, document: &Document<'_>) -> Result<(), Failure> {
        save(self.json.as_ref(), || json(document))?;
        save(self.csv.as_ref(), || Ok(csv(&document.table)))?;
        save(self.markdown.as_ref(), || Ok(markdown(document)))
    }
}

/// `–` for what is not known.
fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".into(), show)
}

/// A number of runs: `1`, `12`, `3400`.
fn runs(count: f64) -> String {
    format!("{:.0}", count.ceil().max(1.0))
}

/// `34.0 ms, 12.5 KiB`.
fn compile(kernel: &Kernel) -> String {
    let both = kernel.compile_ms.zip(kernel.cubin_bytes);
    or_dash(both, |(ms, size)| format!("{}, {}", time(ms), bytes(size)))
}

/// The columns of text and Markdown, for a row.
fn cells(row: &Row, kernels: &[Kernel]) -> [String; 10] {
    let (generic, special) = (
        &kernels[row.generic_kernel],
        &kernels[row.specialized_kernel],
    );
    let same = row.generic_kernel == row.specialized_kernel;
    let gain = match same {
        true => "same".into(),
        false => format!("{:.2}x", row.generic_ms / row.specialized_ms.max(1e-9)),
    };
    [
        format!("{:.1} %", row.share * 100.0),
        row.steps.len().to_string(),
        time(row.generic_ms),
        time(row.specialized_ms),
        gain,
        time(row.floor_ms),
        compile(generic),
        if same { "–".into() } else { compile(special) },
        or_dash(row.break_even_runs, runs),
        special.spec.clone(),
    ]
}

const HEADS: [&str; 10] = [
    "share",
    "steps",
    "generic",
    "special",
    "gain",
    "floor",
    "compile generic",
    "compile special",
    "pays after",
    "kernel",
];

/// The sums of a shape in three lines.
fn sums(point: &Point) -> [String; 3] {
    let s = &point.sums;
    let [times, compiles] = sum_lines(s);
    [
        format!(
            "a run, launch by launch: {times}; {} launches each, a mark takes {}",
            point.launches,
            time(point.mark_ms)
        ),
        format!(
            "compile: {compiles}; {} of that for kernels that no shape above has",
            or_dash(s.new_compile_ms, time)
        ),
        format!(
            "specialising pays after {} runs at this shape",
            or_dash(s.break_even_runs, runs)
        ),
    ]
}

/// All shapes in sum, a line; none if there is only one.
pub(crate) fn totals(table: &Table) -> Option<String> {
    let s = &table.totals;
    let [times, compiles] = sum_lines(s);
    (table.points.len() > 1).then(|| {
        format!(
            "{} shapes, a run at each: {times}; compile: {compiles}; specialising pays after {} rounds",
            table.points.len(),
            or_dash(s.break_even_runs, runs)
        )
    })
}

/// What steps take, and what compiles take.
fn sum_lines(s: &Sums) -> [String; 2] {
    let gain = match s.gain_ms >= 0.0 {
        true => format!("{} gained", time(s.gain_ms)),
        false => format!("{} lost", time(-s.gain_ms)),
    };
    let known = |ms, size| format!("in {} ({})", or_dash(ms, time), or_dash(size, bytes));
    [
        format!(
            "{} steps, generic {}, specialised {} ({gain}), floor {}",
            s.steps,
            time(s.generic_ms),
            time(s.specialized_ms),
            time(s.floor_ms)
        ),
        format!(
            "{} generic kernels {}, {} specialised {}",
            s.generic_kernels,
            known(s.generic_compile_ms, s.generic_bytes),
            s.specialized_kernels,
            known(s.specialized_compile_ms, s.specialized_bytes)
        ),
    ]
}

/// A shape for people: its table, the largest share first, and sums.
pub(crate) fn text(point: &Point, kernels: &[Kernel]) -> String {
    let mut lines: Vec<[String; 10]> = vec![HEADS.map(String::from)];
    lines.extend(point.rows.iter().map(|row| cells(row, kernels)));
    let width = |column: usize| {
        let lengths = lines.iter().map(|line| line[column].chars().count());
        lengths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADS.len() - 1).map(width).collect();
    let mut out = point.shape.clone();
    for line in &lines {
        out.push_str("\n ");
        for (cell, width) in line.iter().zip(&widths) {
            let pad = width - cell.chars().count();
            out.push_str(&" ".repeat(pad + 1));
            out.push_str(cell);
        }
        // writing to a String cannot fail
        let _ = write!(out, "  {}", line[HEADS.len() - 1]);
    }
    for line in sums(point) {
        let _ = write!(out, "\n  {line}");
    }
    out.push_str(&tiles::text(&point.tiles));
    out
}

/// All shapes as Markdown, a table each.
pub(crate) fn markdown(document: &Document<'_>) -> String {
    let arch = match &document.arch {
        Some(arch) => format!(
            "kernels compiled for {arch}, {} at a time",
            document.workers
        ),
        None => "nothing compiled".into(),
    };
    let mut out = format!(
        "`{}` on {}, bespoke {}; {arch}.\n",
        document.model.display(),
        document.device,
        document.version
    );
    for point in &document.table.points {
        let _ = write!(out, "\n## {}\n\n", point.shape);
        for line in sums(point) {
            let _ = writeln!(out, "- {line}");
        }
        let _ = write!(out, "\n| {} |\n|", HEADS.join(" | "));
        for head in HEADS {
            out.push_str(if head == "kernel" { "---|" } else { "--:|" });
        }
        out.push('\n');
        for row in &point.rows {
            let mut cells = cells(row, &document.table.kernels);
            cells[9] = format!("`{}`", cells[9].replace('|', "\\|"));
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        out.push_str(&tiles::markdown(&point.tiles));
    }
    for note in totals(&document.table).iter().chain(&document.notes) {
        let _ = write!(out, "\n{note}\n");
    }
    out
}

/// A cell of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// All rows of all shapes as CSV; what is not known is empty. Names of steps are separated by blanks.
pub(crate) fn csv(table: &Table) -> String {
    let mut out = String::from(
        "shape,template,generic_kernel,specialized_kernel,steps,step_count,launches,generic_ms,specialized_ms,floor_ms,\
         share,gain_ms,generic_compile_ms,generic_cubin_bytes,specialized_compile_ms,specialized_cubin_bytes,\
         break_even_runs\n",
    );
    fn known<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(String::new, |v| v.to_string())
    }
    for point in &table.points {
        for row in &point.rows {
            let generic = &table.kernels[row.generic_kernel];
            let special = &table.kernels[row.specialized_kernel];
            let cells = [
                quoted(&point.shape),
                row.template.to_owned(),
                quoted(&generic.spec),
                quoted(&special.spec),
                quoted(&row.steps.join(" ")),
                row.steps.len().to_string(),
                point.launches.to_string(),
                row.generic_ms.to_string(),
                row.specialized_ms.to_string(),
                row.floor_ms.to_string(),
                row.share.to_string(),
                row.gain_ms.to_string(),
                known(generic.compile_ms),
                known(generic.cubin_bytes),
                known(special.compile_ms),
                known(special.cubin_bytes),
                known(row.break_even_runs),
            ];
            out.push_str(&cells.join(","));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::table::tests::costs;

    fn table(compiled: bool) -> Table {
        let mut table = Table::new(true);
        table.add("x:4,y:4".into(), &costs(4, compiled));
        table
    }

    #[test]
    fn the_text_has_the_largest_share_first_and_what_it_all_sums_to() {
        let table = table(true);
        let text = text(&table.points[0], &table.kernels);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0], "x:4,y:4");
        assert!(lines[1].starts_with("share"), "{text}");
        assert!(
            lines[2].starts_with("94.1 %") && lines[2].ends_with("gemm f32 | T=2 | n=4"),
            "{text}"
        );
        assert!(
            lines[3].starts_with("5.9 %") && lines[3].contains("same"),
            "{text}"
        );
        for words in [
            "2.67x",
            "40.0 ms, 3.9 KiB",
            "3 steps, generic 8.50 ms, specialised 3.50 ms (5.00 ms gained), floor 750 µs",
            "2 generic kernels in 40.0 ms",
            "pays after 8 runs",
        ] {
            assert!(text.contains(words), "`{words}` is missing: {text}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash_or_nothing() {
        let table = table(false);
        let text = text(&table.points[0], &table.kernels);
        assert!(text.contains("2 generic kernels in – (–)"), "{text}");
        assert!(
            csv(&table).lines().nth(1).unwrap().ends_with(",,,,,"),
            "{}",
            csv(&table)
        );
    }

    #[test]
    fn csv_has_a_cell_for_every_column_and_quotes_commas() {
        let csv = csv(&table(true));
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 3, "{csv}");
        let shape = "\"x:4,y:4\"";
        let rest = lines[1].strip_prefix(shape).unwrap();
        assert_eq!(
            rest.matches(',').count(),
            lines[0].matches(',').count(),
            "{csv}"
        );
        assert!(lines[1].contains(",a b,2,3,4,1.5,0.25,"), "{csv}");
        assert_eq!(quoted("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }

    #[test]
    fn the_markdown_tables_have_a_cell_for_every_column() {
        let document = Document {
            schema_version: 1,
            version: "0",
            model: Path::new("m.onnx"),
            device: "the host".into(),
            arch: None,
            workers: 1,
            table: table(false),
            notes: vec!["nothing was compiled".into()],
            exit_code: 0,
        };
        let text = markdown(&document);
        let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).collect();
        assert_eq!(rows.len(), 4, "{text}");
        let cells = |row: &str| row.replace("\\|", "").matches('|').count();
        assert!(rows.iter().all(|r| cells(r) == HEADS.len() + 1), "{text}");
        assert!(text.ends_with("nothing was compiled\n"), "{text}");
    }
}
