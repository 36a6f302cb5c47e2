//! The demo: reads a page of text and shows how bespoke adapts.
//!
//! The detector runs once, the recogniser once for each line, every line at another width. Each run prints a line: shape,
//! latency, how many kernels were generic and how many specialised, and what happened to the graph. A second pass over
//! the lines shows the specialised kernels at work. The text must be the expected one, and a second start must compile
//! nothing: otherwise the exit status is 1.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bespoke::cache::CacheConfig;
use bespoke::device::{Arch, Device};
use bespoke::{
    CompileService, DeviceChoice, GraphUse, RunReport, ServiceOptions, Session, SessionOptions,
    Tensor,
};
use bespoke_demo::letters::{self, Charset};
use bespoke_demo::{Area, Page, lines};

/// What the host compiles for when there is no GPU: the most common card of its generation.
const TARGET: Arch = Arch::sm(89);
/// Background compiles on two cores take minutes at worst.
const PATIENCE: Duration = Duration::from_secs(600);

type Failure = Box<dyn std::error::Error>;

struct Options {
    models: PathBuf,
    page: PathBuf,
    expected: PathBuf,
    cache: PathBuf,
}

fn options() -> Result<Options, Failure> {
    let mut found: [Option<PathBuf>; 4] = [None, None, None, None];
    let names = ["--models", "--page", "--expected", "--cache"];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let at = names.iter().position(|n| *n == arg);
        let (Some(at), Some(value)) = (at, args.next()) else {
            return Err(format!(
                "usage: demo {}",
                names.map(|n| format!("{n} PATH")).join(" ")
            )
            .into());
        };
        found[at] = Some(value.into());
    }
    let [models, page, expected, cache] = found;
    let need = |path: Option<PathBuf>, name| path.ok_or(format!("{name} is missing"));
    Ok(Options {
        models: need(models, names[0])?,
        page: need(page, names[1])?,
        expected: need(expected, names[2])?,
        cache: need(cache, names[3])?,
    })
}

/// One model with its place in the output.
struct Model {
    name: &'static str,
    session: Session,
}

impl Model {
    fn load(
        name: &'static str,
        models: &Path,
        device: &Arc<dyn Device>,
        service: &Arc<CompileService>,
    ) -> Result<Model, Failure> {
        let path = models.join(name).join("model.onnx");
        let options = SessionOptions::default();
        let session = Session::load(&path, device.clone(), service.clone(), options)?;
        Ok(Model { name, session })
    }

    fn run(
        &self,
        input: &bespoke_demo::Tensor,
        out: &mut impl std::io::Write,
    ) -> Result<Vec<f32>, Failure> {
        let dims: Vec<i64> = input.dims.iter().map(|&d| d as i64).collect();
        let tensor = Tensor::from_f32(&dims, &input.data)?;
        let name = &self.session.inputs()[0].name;
        let result = self.session.run(&[(name, &tensor)])?;
        writeln!(out, "{}", line(self.name, &result.report))?;
        let values = result.outputs[0].1.bytes();
        Ok(values
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }
}

fn line(model: &str, r: &RunReport) -> String {
    let graph = match r.graph {
        GraphUse::Recorded => "graph recorded",
        GraphUse::Replayed => "graph replayed",
        GraphUse::Off => "no graph",
    };
    format!(
        "  {model:<12} {:<16} {:>9.2} ms  {:>3} generic {:>3} specialised  {graph}",
        r.shape,
        r.latency_us as f64 / 1e3,
        r.generic_kernels,
        r.specialized_kernels
    )
}

fn read_lines(
    reader: &Model,
    charset: &Charset,
    page: &Page,
    areas: &[Area],
    out: &mut impl std::io::Write,
) -> Result<Vec<String>, Failure> {
    let mut text = Vec::new();
    for &area in areas {
        text.push(
            charset
                .read(&reader.run(&letters::input(page, area), out)?)
                .text,
        );
    }
    Ok(text)
}

fn demo(options: &Options, out: &mut impl std::io::Write) -> Result<bool, Failure> {
    let (device, why) = bespoke::open_device(DeviceChoice::Auto {
        target: Some(TARGET),
    })?;
    writeln!(out, "device: {why}")?;
    let marker = Marker::beside(&options.cache)?;
    let first_start = !marker.is_there();
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig::at(&options.cache),
        ..ServiceOptions::default()
    })?;
    let page = Page::open(&options.page)?;
    let detector = Model::load("ppocrv4_det", &options.models, &device, &service)?;
    let reader = Model::load("ppocrv4_rec", &options.models, &device, &service)?;
    let characters = reader.session.metadata().get("character");
    let charset =
        Charset::new(characters.ok_or("the recogniser lacks the metadata key `character`")?);

    let heading = match first_start {
        true => "first sight of every shape:",
        false => "the shapes of the start before:",
    };
    writeln!(out, "\n{heading}")?;
    let probability = detector.run(&lines::input(&page, page.area()), out)?;
    let areas = lines::boxes(&probability, page.width());
    let text = read_lines(&reader, &charset, &page, &areas, out)?;
    for model in [&detector, &reader] {
        if !model.session.wait_specialized(PATIENCE) {
            return Err(format!("{} is not specialised after {PATIENCE:?}", model.name).into());
        }
    }
    writeln!(out, "\nonce nothing is left to compile:")?;
    detector.run(&lines::input(&page, page.area()), out)?;
    let again = read_lines(&reader, &charset, &page, &areas, out)?;

    writeln!(out, "\ntext:")?;
    for t in &text {
        writeln!(out, "  {t}")?;
    }
    let stats = service.stats();
    let cache = service.cache().stats();
    writeln!(
        out,
        "\ncache {}: {} hits, {} misses, {} stored",
        options.cache.display(),
        cache.hits,
        cache.total_misses(),
        cache.puts
    )?;
    writeln!(
        out,
        "compiled {} kernels in {:.1} s of compiler time, {} came from the cache",
        stats.compiled,
        stats.compile_micros as f64 / 1e6,
        stats.cache_hits
    )?;
    if device.needs_cubin() {
        writeln!(
            out,
            "ran: kernels of {}; compiled: {}",
            device.props().name,
            stats.compiled
        )?;
    } else {
        writeln!(
            out,
            "ran: host twins; compiled for {TARGET}: {}",
            stats.compiled
        )?;
    }

    let expected = std::fs::read_to_string(&options.expected)?;
    let expected: Vec<&str> = expected.lines().collect();
    let mut good = true;
    let mut check = |ok: bool, what: &str| {
        good &= ok;
        writeln!(out, "{}: {what}", if ok { "ok" } else { "FAILED" })
    };
    check(text == expected, "the text is the expected text")?;
    check(text == again, "both passes read the same text")?;
    check(stats.failed == 0, "every kernel compiled")?;
    if first_start {
        check(stats.compiled > 0, "the first start compiled kernels")?;
    } else {
        check(
            stats.compiled == 0,
            "this start found every kernel in the cache",
        )?;
    }
    if good {
        marker.leave()?;
    }
    Ok(good)
}

/// Tells a first start from a second one: a file beside the cache, left by a start that went well, that names the very
/// program that ran. Another build may have other kernels, so its first start is a first start again.
struct Marker {
    path: PathBuf,
    text: String,
}

impl Marker {
    fn beside(cache: &Path) -> Result<Marker, Failure> {
        let program = std::fs::metadata(std::env::current_exe()?)?;
        let text = format!("{:?} {}", program.modified()?, program.len());
        Ok(Marker {
            path: cache.with_extension("complete"),
            text,
        })
    }

    fn is_there(&self) -> bool {
        std::fs::read_to_string(&self.path).is_ok_and(|t| t == self.text)
    }

    fn leave(&self) -> std::io::Result<()> {
        std::fs::write(&self.path, &self.text)
    }
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    match options().and_then(|o| demo(&o, &mut out)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            // nothing is left to do if even this cannot be written
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}
