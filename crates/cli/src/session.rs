//! From flags to a session: the device, the compile service, the model on it.
//!
//! Errors of the runtime become failures here, each with its kind and, where the message does not hold one, a remedy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bespoke::cache::OffReason;
use bespoke::device::Device;
use bespoke::ir::Constant;
use bespoke::runtime::{
    self, CompileService, ErrorKind, Feed, GraphMode, Model, ProgrammaticLaunch, Progress,
    ServiceOptions, Session, Tensor, feed,
};
use bespoke::{DeviceChoice, cuda, open_device};
use bytes::Bytes;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::arithmetic;
use crate::console::Console;
use crate::failure::Failure;
use crate::options::{Graphs, Place, Programmatic, SessionOptions};
use crate::warnings;

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Failure {
        // The importer's errors have remedies of their own.
        if let runtime::Error::Import(error) = error {
            return error.into();
        }
        let kind = error.kind();
        let help = match kind {
            ErrorKind::Usage => "`bespoke inspect` shows the model's inputs",
            ErrorKind::ModelRejected => "`bespoke inspect` shows what the model needs",
            ErrorKind::NoDevice => {
                "`bespoke doctor` shows what is missing; --device host needs no GPU"
            }
            ErrorKind::OutOfMemory => "run smaller shapes or free memory",
            ErrorKind::Compile => "`bespoke doctor` shows which compiler is used",
            ErrorKind::Timeout => "",
            ErrorKind::DeviceLost => "start the process again; the kernel log may say why",
            ErrorKind::Internal => "this is a bug of bespoke; please report it with the model",
        };
        Failure::new(kind, error.to_string(), help)
    }
}

/// An open device with its compile service.
#[derive(Debug)]
pub(crate) struct Workplace {
    /// The device.
    pub(crate) device: Arc<dyn Device>,
    /// Which it is, and why.
    pub(crate) words: String,
    /// Whether it is a GPU.
    pub(crate) on_gpu: bool,
    /// The compiler and its cache.
    pub(crate) service: Arc<CompileService>,
    /// Why the cache did less than the default when it was opened, which has been told.
    opened: Option<OffReason>,
    options: runtime::SessionOptions,
    bar: Bar,
}

impl Workplace {
    /// Opens what the flags ask for, and says on the console what falls short.
    ///
    /// # Errors
    ///
    /// Contradictory flags, and a device that cannot be used.
    pub(crate) fn open(
        flags: &SessionOptions,
        console: &mut Console,
    ) -> Result<Workplace, Failure> {
        flags.check()?;
        let host = DeviceChoice::Host {
            target: flags.place.target,
            threads: flags.place.threads.unwrap_or(0),
        };
        let gpu = |ordinal, target| open_device(DeviceChoice::Cuda { ordinal, target });
        let ((device, words), on_gpu) = match flags.place.device {
            Place::Host => (open_device(host)?, false),
            Place::Cuda(ordinal) => (gpu(ordinal, flags.place.target)?, true),
            Place::Auto => match gpu(0, None) {
                Ok(found) => {
                    if let Some(target) = flags.place.target {
                        console.note(format_args!(
                            "a GPU is used, and kernels are for its own architecture; --device cuda --target {target} asks for others"
                        ));
                    }
                    (found, true)
                }
                Err(error) => {
                    let (device, _) = open_device(host)?;
                    (
                        (device, format!("the host; no GPU is used: {error}")),
                        false,
                    )
                }
            },
        };
        // A driver loads what was compiled by its own major release or an older one.
        let newest = on_gpu
            .then(|| cuda::probe().driver_version.map(|(major, _)| major))
            .flatten();
        let service = CompileService::new(ServiceOptions {
            cache: flags.cache.config(),
            nvrtc_dirs: Vec::<PathBuf>::new(),
            max_nvrtc_major: newest,
            workers: flags.workers,
            compile_cost: flags.cost.compile_cost,
            error_on_cache_miss: flags.error_on_cache_miss,
        })
        .map_err(|error| no_threads(&error))?;
        flags.cost.tell(console);
        let opened = service.cache().reason();
        if let Some(reason) = opened.as_ref().filter(|r| **r != OffReason::Asked) {
            console.warn(format_args!("kernel cache: {reason}"));
        }
        for refusal in service.cache().refused_layers() {
            console.warn(refusal);
        }
        let options = runtime::SessionOptions {
            strategy: flags.specialize.strategy.clone(),
            learn: !flags.no_learn,
            verify_swap: flags.verify_swap,
            bit_stable: flags.bit_stable,
            refine: flags.refine.0,
            arithmetic: flags.arithmetic.arithmetic,
            require_graph: flags.require_graph,
            memory_limit: flags.memory_limit.map(|size| size.0),
            opt_shapes: flags
                .opt_shapes
                .iter()
                .flat_map(|shapes| &shapes.0)
                .map(|shape| (shape.name.clone(), shape.dims.clone()))
                .collect(),
            cuda_graph: match flags.cuda_graph {
                Graphs::Whole => GraphMode::Whole,
                Graphs::Chain => GraphMode::Chain,
                Graphs::Off => GraphMode::Off,
            },
            programmatic_launch: match flags.programmatic_launch {
                Programmatic::Auto => ProgrammaticLaunch::Auto,
                Programmatic::Off => ProgrammaticLaunch::Off,
            },
            ..runtime::SessionOptions::default()
        };
        Ok(Workplace {
            device,
            words,
            on_gpu,
            service,
            opened,
            options,
            bar: Bar::default(),
        })
    }

    /// Says on the console what the kernel cache could not do since it was opened, and returns the lines. Call it once.
    pub(crate) fn tell_cache(&self, console: &mut Console) -> Vec<String> {
        let cache = self.service.cache();
        let (stats, now) = (cache.stats(), cache.reason());
        let lines = warnings::of_cache(&stats, self.opened.as_ref(), now.as_ref());
        for line in &lines {
            console.warn(line);
        }
        lines
    }

    /// Puts a model on the device. The feeds hear of it from the first event on; a bar shows kernels while it loads. What came of
    /// the arithmetic that was asked for is said.
    ///
    /// # Errors
    ///
    /// A model that cannot be planned, and everything that the device and the compiler may refuse.
    pub(crate) fn session(
        &self,
        model: impl Into<Model>,
        feeds: Vec<Feed>,
        console: &mut Console,
    ) -> Result<Session, Failure> {
        let (device, service) = (Arc::clone(&self.device), Arc::clone(&self.service));
        let mut options = self.options.clone();
        options.feeds = feeds;
        let bar = self.bar.show(console, &mut options.feeds);
        let session = Session::from_model(model, device, service, options);
        drop(bar);
        let session = session?;
        arithmetic::tell(&session.arithmetic(), console);
        Ok(session)
    }

    /// Waits until a session has all kernels that its strategy wants; returns whether that was so in time.
    pub(crate) fn wait(&self, session: &Session, patience: Duration, console: &Console) -> bool {
        let _bar = self.bar.again(console);
        session.wait_specialized(patience)
    }
}

/// A bar of the kernels that are done, shown where somebody waits for them.
#[derive(Clone, Debug, Default)]
struct Bar(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    bar: Option<ProgressBar>,
    progress: Progress,
}

/// Takes the bar away when dropped.
struct Showing(Bar);

impl Bar {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the bar of one more session from now on. Where nobody would see it, nothing is done.
    fn show(&self, console: &Console, feeds: &mut Vec<Feed>) -> Option<Showing> {
        if !console.shows_progress() {
            return None;
        }
        let told = self.clone();
        let heard = feed::on_progress(move |progress| {
            let mut shown = told.lock();
            shown.progress = progress;
            if let Some(bar) = &shown.bar {
                bar.set_length(progress.wanted as u64);
                bar.set_position(progress.done as u64);
            }
        });
        // without a thread there is no bar, and nothing else is lacking
        feeds.push(heard.ok()?.0);
        self.again(console)
    }

    /// Shows the bar again.
    fn again(&self, console: &Console) -> Option<Showing> {
        if !console.shows_progress() {
            return None;
        }
        let mut shown = self.lock();
        let bar = console.progress((shown.progress.wanted as u64).max(2), "kernels");
        bar.set_position(shown.progress.done as u64);
        shown.bar = Some(bar);
        drop(shown);
        Some(Showing(self.clone()))
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        if let Some(bar) = self.0.lock().bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// A tensor of a file as the runtime takes it.
pub(crate) fn tensor(constant: &Constant) -> Result<Tensor, Failure> {
    let made = Tensor::new(
        constant.dtype(),
        constant.dims().to_vec(),
        constant.data().to_vec(),
    );
    made.map_err(|error| runtime::Error::from(error).into())
}

/// A tensor of the runtime as files hold it.
pub(crate) fn constant(tensor: &Tensor) -> Result<Arc<Constant>, Failure> {
    let data = Bytes::copy_from_slice(tensor.bytes());
    Constant::new(tensor.dtype(), tensor.dims().to_vec(), data).map_err(|error| {
        Failure::new(
            ErrorKind::Internal,
            error.to_string(),
            "please report it with the model",
        )
    })
}

/// What the kernel cache did, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct CacheReport {
    folder: Option<PathBuf>,
    mode: &'static str,
    reason: Option<String>,
    hits: u64,
    misses: std::collections::BTreeMap<&'static str, u64>,
    stored: u64,
    not_stored: std::collections::BTreeMap<&'static str, u64>,
    quarantined: u64,
    evicted: u64,
    compile_us_saved: u64,
}

impl CacheReport {
    /// The report of a cache since it was opened.
    pub(crate) fn of(cache: &bespoke::cache::Cache) -> CacheReport {
        let stats = cache.stats();
        CacheReport {
            folder: cache.path().map(PathBuf::from),
            mode: cache.mode().name(),
            reason: cache.reason().map(|r| r.to_string()),
            hits: stats.hits,
            misses: stats.misses,
            stored: stats.puts,
            not_stored: stats.put_skips,
            quarantined: stats.quarantined,
            evicted: stats.evicted,
            compile_us_saved: stats.micros_saved,
        }
    }

    /// `3 hits, 2 misses (absent 2), 2 stored`.
    pub(crate) fn line(&self) -> String {
        let reasons = |map: &std::collections::BTreeMap<&'static str, u64>| {
            let parts: Vec<String> = map.iter().map(|(why, n)| format!("{why} {n}")).collect();
            if parts.is_empty() {
                String::new()
            } else {
                format!(" ({})", parts.join(", "))
            }
        };
        let misses: u64 = self.misses.values().sum();
        let mut text = format!(
            "{}: {} hits, {misses} misses{}, {} stored",
            self.mode,
            self.hits,
            reasons(&self.misses),
            self.stored
        );
        let skipped: u64 = self.not_stored.values().sum();
        if skipped > 0 {
            text.push_str(&format!(
                ", {skipped} not stored{}",
                reasons(&self.not_stored)
            ));
        }
        for (count, what) in [(self.quarantined, "set aside"), (self.evicted, "evicted")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }
}
/// A compile service whose threads cannot be started.
pub(crate) fn no_threads(error: &std::io::Error) -> Failure {
    let message = format!("the compile threads cannot be started: {error}");
    Failure::new(
        ErrorKind::OutOfMemory,
        message,
        "raise the limit of processes",
    )
}
