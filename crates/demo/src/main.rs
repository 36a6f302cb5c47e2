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

#[derive(Debug)]
struct Options {
    models: PathBuf,
    page: PathBuf,
    expected: PathBuf,
    cache: PathBuf,
    device: DeviceChoice,
}

/// Of the flags that are given more than once, the last counts.
fn options(mut args: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let mut found: [Option<String>; 5] = Default::default();
    let names = ["--models", "--page", "--expected", "--cache", "--device"];
    while let Some(arg) = args.next() {
        let at = names.iter().position(|n| *n == arg);
        let (Some(at), Some(value)) = (at, args.next()) else {
            let [paths @ .., device] = names;
            let paths = paths.map(|n| format!("{n} PATH")).join(" ");
            return Err(format!("`{arg}`: usage: demo {paths} [{device} auto|host|cuda]").into());
        };
        found[at] = Some(value);
    }
    let [models, page, expected, cache, device] = found;
    let need =
        |path: Option<String>, name| path.map(PathBuf::from).ok_or(format!("{name} is missing"));
    Ok(Options {
        models: need(models, names[0])?,
        page: need(page, names[1])?,
        expected: need(expected, names[2])?,
        cache: need(cache, names[3])?,
        device: match device.as_deref().unwrap_or("auto") {
            "auto" => DeviceChoice::Auto {
                target: Some(TARGET),
            },
            "host" => DeviceChoice::Host {
                threads: 0,
                target: Some(TARGET),
            },
            "cuda" => DeviceChoice::Cuda {
                ordinal: 0,
                target: None,
            },
            other => {
                return Err(format!("--device is auto, host or cuda, not `{other}`").into());
            }
        },
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
    let (device, why) = bespoke::open_device(options.device)?;
    writeln!(out, "device: {why}")?;
    let marker = Marker::beside(&options.cache)?;
    let start = Start::of(&options.cache, &marker);
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

    let heading = match start {
        Start::First => "first sight of every shape:",
        Start::Again | Start::AnotherBuild => "the shapes of the start before:",
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
    match start {
        Start::First => check(stats.compiled > 0, "the first start compiled kernels")?,
        Start::Again => check(
            stats.compiled == 0,
            "this start found every kernel in the cache",
        )?,
        // what of it serves this build is not known
        Start::AnotherBuild => writeln!(
            out,
            "the cache is of another build, or of a start that was cut short"
        )?,
    }
    if good {
        marker.leave()?;
    }
    Ok(good)
}

/// Which start this is, with this cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// There is nothing in the cache.
    First,
    /// This very program filled the cache.
    Again,
    /// Another build did, which may have had the same kernels, others or some of each; or a start that did not go well.
    AnotherBuild,
}

impl Start {
    fn of(cache: &Path, marker: &Marker) -> Start {
        // a folder that cannot be read is the cache's to complain of
        let empty = std::fs::read_dir(cache).map_or(true, |mut entries| entries.next().is_none());
        match (empty, marker.is_there()) {
            (true, _) => Start::First,
            (false, true) => Start::Again,
            (false, false) => Start::AnotherBuild,
        }
    }
}

/// A file beside the cache, left by a start that went well, that names the very program that ran.
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
    match options(std::env::args().skip(1)).and_then(|o| demo(&o, &mut out)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            // nothing is left to do if even this cannot be written
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_build_compiled_makes_no_first_start() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let marker = Marker::beside(&cache).unwrap();
        assert_eq!(Start::of(&cache, &marker), Start::First);
        std::fs::create_dir(&cache).unwrap();
        assert_eq!(Start::of(&cache, &marker), Start::First);
        std::fs::write(cache.join("kernel"), "of another build").unwrap();
        assert_eq!(Start::of(&cache, &marker), Start::AnotherBuild);
        marker.leave().unwrap();
        assert_eq!(Start::of(&cache, &marker), Start::Again);
        // somebody emptied the cache
        std::fs::remove_dir_all(&cache).unwrap();
        assert_eq!(Start::of(&cache, &marker), Start::First);
    }

    #[test]
    fn flags_are_read_and_others_are_named() {
        let read = |text: &str| options(text.split(' ').map(str::to_owned));
        let paths = "--models m --page p --expected e --cache c";
        let device = |rest: &str| read(&format!("{paths}{rest}")).map(|o| o.device);
        assert!(matches!(device(""), Ok(DeviceChoice::Auto { .. })));
        assert!(matches!(
            device(" --device host"),
            Ok(DeviceChoice::Host { .. })
        ));
        assert!(matches!(
            device(" --device cuda"),
            Ok(DeviceChoice::Cuda { .. })
        ));
        let complaint = |text: &str| read(text).unwrap_err().to_string();
        assert!(complaint(&format!("{paths} --device tpu")).contains("not `tpu`"));
        assert!(complaint(&format!("{paths} --devise host")).contains("`--devise`: usage"));
        assert_eq!(complaint("--models m"), "--page is missing");
    }
}
