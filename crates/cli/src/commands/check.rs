//! `bespoke check`: run a model on stored inputs and compare with stored outputs.
//!
//! What is equal is decided in `compare`, what the folders look like in `dataset`. A model passes if every output of every
//! set does. A model that cannot be run is UNSUPPORTED, which is no mismatch; one that breaks while it runs is a FAIL.

use std::path::{Path, PathBuf};

use bespoke::ErrorKind;
use bespoke::ir::{DType, Graph};
use bespoke::onnx::{ImportOptions, ImportedModel, OnnxError, import};
use bespoke::runtime::{Session, Tensor};
use clap::Args;
use serde::Serialize;

use crate::compare::{Difference, Overrides, Rule, Traits, compare};
use crate::console::{Console, status};
use crate::dataset;
use crate::elements::number;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::options::SessionOptions;
use crate::session::{Workplace, constant, tensor};
use crate::sight::{Sight, SightOptions};
use crate::warnings;

/// Run models on stored inputs and compare with stored outputs
///
/// The layout is that of the ONNX backend tests: DIR/test_data_set_K/input_I.pb and output_I.pb, counted in graph order.
/// One line a model: PASS, FAIL or UNSUPPORTED, with its worst element.
///
/// Without flags, f32 may differ by 1e-3 of the reference plus 1e-4 of its largest element, f16 by 2e-2 of the largest
/// element; integers are exact; dynamically quantised models need a cosine of 0.999 and the same largest element.
///
/// The exit code is 0 if all passed, 1 if something differs, 3 if a model was rejected and nothing differs.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    #[arg(required_unless_present = "suite", requires = "data")]
    model: Option<PathBuf>,
    /// The folder that holds test_data_set_0, or one set
    #[arg(long, value_name = "DIR", requires = "model")]
    data: Option<PathBuf>,
    /// Check every subfolder that has model.onnx and test_data_set_*
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "data"])]
    suite: Option<PathBuf>,
    /// Part of the reference that an element may differ by
    #[arg(long, value_name = "X", value_parser = tolerance)]
    rtol: Option<f64>,
    /// Amount that an element may differ by
    #[arg(long, value_name = "X", value_parser = tolerance)]
    atol: Option<f64>,
    /// Least cosine between output and reference, instead of bounds for each element
    #[arg(long, value_name = "X", value_parser = tolerance)]
    cosine: Option<f64>,
    #[command(flatten)]
    session: SessionOptions,
    #[command(flatten)]
    sight: SightOptions,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!(
            "`{text}` is no tolerance: write a number from 0 on, such as 1e-3"
        )),
    }
}

/// One model to check.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    name: String,
    model: PathBuf,
    data: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Pass,
    Fail,
    Unsupported,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Status::Pass => "PASS",
            Status::Fail => "FAIL",
            Status::Unsupported => "UNSUPPORTED",
        }
    }
}

/// A row of the JSON list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    status: Status,
    max_abs: Option<f64>,
    max_rel: Option<f64>,
    reason: Option<String>,
    /// For people: sets, outputs, the worst element.
    #[serde(skip)]
    detail: String,
    /// The device works no longer, so that nothing after this row means anything.
    #[serde(skip)]
    lost: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    arguments.session.check()?;
    let cases = cases(arguments, console)?;
    let sight = Sight::open(&arguments.sight, None, false)?;
    let place = Workplace::open(&arguments.session, console)?;
    console.note(format_args!("device: {}", place.words));
    let user = Overrides {
        rtol: arguments.rtol,
        atol: arguments.atol,
        cosine: arguments.cosine,
    };
    let mut rows: Vec<Row> = Vec::new();
    let bar = console.progress(cases.len() as u64, "checking");
    for case in &cases {
        let lost = rows.last().is_some_and(|row| row.lost);
        let row = if lost {
            not_run(case)
        } else {
            check(case, &place, &sight, user, console)?
        };
        bar.suspend(|| console.line(text(&row)))?;
        bar.inc(1);
        rows.push(row);
    }
    bar.finish_and_clear();
    for line in sight.finish().told {
        console.warn(line);
    }
    place.tell_cache(console);
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    let (passed, failed, unsupported) = (
        count(Status::Pass),
        count(Status::Fail),
        count(Status::Unsupported),
    );
    if rows.len() > 1 {
        console.line(format_args!(
            "{passed} passed, {failed} failed, {unsupported} unsupported"
        ))?;
    }
    if console.json {
        console.document(&rows)?;
    }
    Ok(if rows.iter().any(|row| row.lost) {
        ErrorKind::DeviceLost.exit_code()
    } else if failed > 0 {
        Kind::Mismatch.code()
    } else if unsupported > 0 {
        ErrorKind::ModelRejected.exit_code()
    } else {
        0
    })
}

/// What the flags name.
fn cases(arguments: &Arguments, console: &mut Console) -> Result<Vec<Case>, Failure> {
    let (model, data) = match (&arguments.suite, &arguments.model, &arguments.data) {
        (Some(suite), ..) => return suite_of(suite, console),
        (None, Some(model), Some(data)) => (model.clone(), data.clone()),
        _ => {
            return Err(Failure::usage(
                "nothing to check",
                "give MODEL and --data DIR, or --suite DIR",
            ));
        }
    };
    let name = |path: &Path| {
        let stem = path.file_stem()?.to_str()?.to_owned();
        // Every file is called model.onnx; its folder says which.
        let folder = || {
            std::fs::canonicalize(path)
                .ok()?
                .parent()?
                .file_name()?
                .to_str()
                .map(str::to_owned)
        };
        if stem == "model" {
            folder().or(Some(stem))
        } else {
            Some(stem)
        }
    };
    Ok(vec![Case {
        name: name(&model).unwrap_or_else(|| model.display().to_string()),
        model,
        data,
    }])
}

/// The subfolders of a suite, by name.
fn suite_of(suite: &Path, console: &mut Console) -> Result<Vec<Case>, Failure> {
    let io = |error: std::io::Error| Failure::file(suite, "read", &error);
    let (mut cases, mut without) = (Vec::new(), 0);
    for entry in std::fs::read_dir(suite).map_err(io)? {
        let folder = entry.map_err(io)?.path();
        let model = folder.join("model.onnx");
        if !model.is_file() {
            continue;
        }
        let sets = folder.join("test_data_set_0").is_dir() || dataset::find(&folder).is_ok();
        if !sets {
            without += 1;
            continue;
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        cases.push(Case {
            name,
            model,
            data: folder,
        });
    }
    if without > 0 {
        console.note(format_args!(
            "{without} subfolders have a model and no test_data_set_*; they are left out"
        ));
    }
    if cases.is_empty() {
        return Err(Failure::usage(
            format!(
                "{} has no subfolder with model.onnx and test_data_set_*",
                suite.display()
            ),
            "name the folder above the models' folders",
        ));
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn row(case: &Case, status: Status, reason: Option<String>) -> Row {
    Row {
        name: case.name.clone(),
        status,
        max_abs: None,
        max_rel: None,
        reason,
        detail: String::new(),
        lost: false,
    }
}

fn not_run(case: &Case) -> Row {
    row(
        case,
        Status::Fail,
        Some("not run: the device was lost".into()),
    )
}

/// Checks one model. What is wrong with the model or a set is its row; what is wrong with the command line is a failure of
/// the command.
fn check(
    case: &Case,
    place: &Workplace,
    sight: &Sight,
    user: Overrides,
    console: &mut Console,
) -> Result<Row, Failure> {
    let sets = dataset::find(&case.data)?;
    let model = match import(&case.model, &ImportOptions::segmented()) {
        Ok(model) => model,
        Err(error @ OnnxError::Io { .. }) => return Err(error.into()),
        Err(error) => return Ok(row(case, Status::Unsupported, Some(error.to_string()))),
    };
    let traits = traits(&model);
    let session = match place.session(model, sight.feeds(), console) {
        Ok(session) => session,
        Err(failure) => return broken(case, failure),
    };
    let row = compare_sets(case, &session, &sets, traits, user);
    let events = session.events();
    let dropped = session.stats().events_dropped;
    let lines = warnings::uncompiled(&events).into_iter();
    for line in lines.chain(warnings::of_session(&events, dropped)) {
        console.warn(format_args!("{}: {line}", case.name));
    }
    row
}

/// Runs every set and compares.
fn compare_sets(
    case: &Case,
    session: &Session,
    sets: &[PathBuf],
    traits: Traits,
    user: Overrides,
) -> Result<Row, Failure> {
    let mut worst: Option<(Difference, String)> = None;
    let (mut max_abs, mut max_rel) = (None, None);
    let mut outputs = 0;
    let mut reasons = Vec::new();
    for path in sets {
        let label = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let set = match dataset::read(path) {
            Ok(set) => set,
            Err(failure) => {
                reasons.push(failure.message);
                continue;
            }
        };
        let differences = match run_set(session, &set, traits, user) {
            Ok(differences) => differences,
            Err(failure) if failure.kind == Kind::Mismatch => {
                reasons.push(format!("{label}: {failure}"));
                continue;
            }
            Err(failure) => return broken(case, failure),
        };
        for (name, found) in differences {
            outputs += 1;
            max_abs = larger(max_abs, found.max_abs);
            max_rel = larger(max_rel, found.max_rel);
            if let Some(reason) = &found.reason {
                reasons.push(format!("{label}, output `{name}`: {reason}"));
            }
            if worst
                .as_ref()
                .is_none_or(|(w, _)| found.excess > w.excess || w.worst.is_none())
            {
                worst = Some((found, format!("{label}, output `{name}`")));
            }
        }
    }
    let detail = match &worst {
        Some((Difference { worst: Some(w), .. }, place)) => {
            let by = (w.actual - w.expected).abs();
            let allowed = w
                .allowed
                .map_or_else(String::new, |a| format!(", allowed {a:.2e}"));
            format!(
                "worst: {place}, element {}: {} for {} (off by {by:.2e}{allowed})",
                w.index,
                number(w.actual),
                number(w.expected)
            )
        }
        Some(_) => "all outputs are empty".to_owned(),
        None => "nothing was compared".to_owned(),
    };
    let status = if reasons.is_empty() {
        Status::Pass
    } else {
        Status::Fail
    };
    Ok(Row {
        name: case.name.clone(),
        status,
        max_abs,
        max_rel,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        detail: format!("{} sets, {outputs} outputs; {detail}", sets.len()),
        lost: false,
    })
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

/// The row of a model that could not be loaded or broke while it ran.
fn broken(case: &Case, failure: Failure) -> Result<Row, Failure> {
    let status = match failure.kind {
        Kind::Error(ErrorKind::ModelRejected) => Status::Unsupported,
        // The machine is at fault and would be for every other model.
        Kind::Error(ErrorKind::NoDevice) => return Err(failure),
        _ => Status::Fail,
    };
    let lost = failure.kind == ErrorKind::DeviceLost.into();
    Ok(Row {
        lost,
        ..row(case, status, Some(failure.message))
    })
}

/// Runs a set; a difference an output, by name.
fn run_set(
    session: &Session,
    set: &dataset::Set,
    traits: Traits,
    user: Overrides,
) -> Result<Vec<(String, Difference)>, Failure> {
    let ports = session.inputs();
    let other = |message: String| {
        Failure::new(
            Kind::Mismatch,
            message,
            "make the data again for this model",
        )
    };
    if ports.len() != set.inputs.len() {
        return Err(other(format!(
            "the set has {} inputs, the model takes {}",
            set.inputs.len(),
            ports.len()
        )));
    }
    let tensors: Vec<Tensor> = set
        .inputs
        .iter()
        .map(|c| tensor(c))
        .collect::<Result<_, _>>()?;
    let given: Vec<(&str, &Tensor)> = ports
        .iter()
        .map(|p| p.name.as_str())
        .zip(&tensors)
        .collect();
    let outputs = session.run(&given)?.outputs;
    if outputs.len() != set.outputs.len() {
        return Err(other(format!(
            "the set has {} outputs, the model makes {}",
            set.outputs.len(),
            outputs.len()
        )));
    }
    outputs
        .into_iter()
        .zip(&set.outputs)
        .map(|((name, actual), expected)| {
            let rule = Rule::of(expected.dtype(), traits, user);
            Ok((name, compare(&*constant(&actual)?, expected, rule)))
        })
        .collect()
}

/// What decides the rules for a model's outputs.
fn traits(model: &ImportedModel) -> Traits {
    // DynamicQuantizeLinear, and the operators that have it inside (com.microsoft::DynamicQuantizeLSTM, …)
    let dynamic = |name: &String| {
        name.rsplit("::")
            .next()
            .is_some_and(|op| op.starts_with("DynamicQuantize"))
    };
    Traits {
        dynamic_quantisation: model.operators.keys().any(dynamic),
        half: model.graphs().into_iter().any(computes_in_half),
    }
}

fn computes_in_half(graph: &Graph) -> bool {
    graph
        .topological_order()
        .iter()
        .flat_map(|&id| graph.node(id).outputs())
        .any(|&value| matches!(graph.dtype(value), DType::F16 | DType::BF16))
}

fn text(row: &Row) -> String {
    let mut text = format!("{:<4} {}", status(row.status.word()), row.name);
    if !row.detail.is_empty() {
        text.push_str(&format!("  {}", row.detail));
    }
    if let Some(reason) = &row.reason {
        // One line a model, whatever the reason looks like.
        let reason: Vec<&str> = reason.split('\n').map(str::trim).collect();
        text.push_str(&format!("  {}", reason.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerances_are_numbers_from_0_on() {
        assert_eq!(tolerance("1e-3"), Ok(1e-3));
        for text in ["", "x", "-1", "nan", "inf"] {
            assert!(tolerance(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_row_is_one_line_whatever_the_reason() {
        let case = Case {
            name: "m".into(),
            model: "m.onnx".into(),
            data: "d".into(),
        };
        let row = row(
            &case,
            Status::Unsupported,
            Some("2 nodes cannot be run:\n  a\n  b".into()),
        );
        assert!(
            text(&row).ends_with("m  2 nodes cannot be run: a b"),
            "{}",
            text(&row)
        );
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"name":"m","status":"UNSUPPORTED","max_abs":null,"max_rel":null,"reason":"2 nodes cannot be run:\n  a\n  b"}"#
        );
    }
}
