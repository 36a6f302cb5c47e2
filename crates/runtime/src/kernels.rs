//! From blueprints to loaded kernels.
//!
//! Equal specifications are one kernel, in a blueprint and across programs: loaded kernels are remembered by name as long
//! as a program holds them. So are requests, whose keys take a whole source each: what is looked up when a session begins
//! is asked for a moment later. All of this is work without order, done on all processors.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bespoke_cache::Key;
use bespoke_device::{Arch, Device, DeviceError, Kernel};
use bespoke_plan::Binding;
use bespoke_policy::ClassId;
use bespoke_templates::KernelSpec;

use crate::crew;
use crate::error::Error;
use crate::event::{Cause, EventKind, Log};
use crate::program::{Blueprint, Own, Program};
use crate::service::{CompileError, CompileService, Ready, Request};
use crate::shared::Core;
use crate::tiles::{self, StepKind};

/// Loads kernels for one session.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) service: Arc<CompileService>,
    loaded: Mutex<HashMap<String, Weak<dyn Kernel>>>,
    requested: Mutex<HashMap<String, Request>>,
}

/// So many requests are remembered; then all are forgotten.
const REMEMBERED_REQUESTS: usize = 8192;

/// The distinct kernels of a blueprint and, for each step, which one it is.
pub(crate) struct Distinct {
    pub(crate) specs: Vec<KernelSpec>,
    pub(crate) of_step: Vec<usize>,
}

impl Distinct {
    pub(crate) fn of(blueprint: &Blueprint) -> Distinct {
        let names = crew::map(&blueprint.specs, |_, spec| spec.to_string());
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        let mut specs = Vec::new();
        let of_step = names
            .into_iter()
            .zip(&blueprint.specs)
            .map(|(name, spec)| {
                *index.entry(name).or_insert_with(|| {
                    specs.push(spec.clone());
                    specs.len() - 1
                })
            })
            .collect();
        Distinct { specs, of_step }
    }
}

/// What became of an image.
enum Attempt {
    Loaded(Arc<dyn Kernel>),
    /// The device does not take the cubin of this key.
    Refused(Key),
}

pub(crate) type Answer = Result<Ready, CompileError>;

impl Loader {
    pub(crate) fn new(device: Arc<dyn Device>, service: Arc<CompileService>) -> Loader {
        Loader {
            device,
            service,
            loaded: Mutex::default(),
            requested: Mutex::default(),
        }
    }

    /// The compile requests of a list of kernels; none if the device compiles nothing.
    pub(crate) fn requests(&self, specs: &[KernelSpec]) -> Vec<Request> {
        let Some(arch) = self.device.target() else {
            return Vec::new();
        };
        crew::map(specs, |_, spec| self.request(spec, arch))
    }

    fn request(&self, spec: &KernelSpec, arch: Arch) -> Request {
        let name = spec.to_string();
        let known = || {
            self.requested
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(request) = known().get(&name) {
            return request.clone();
        }
        let request = Request::new(spec, self.device.props(), arch);
        let mut known = known();
        if known.len() >= REMEMBERED_REQUESTS {
            known.clear();
        }
        known.insert(name, request.clone());
        request
    }

    /// Loads a kernel from its cubin, or from its twin where the device needs none.
    fn load(&self, spec: &KernelSpec, answer: Option<&Answer>) -> Result<Attempt, Error> {
        let name = spec.to_string();
        if let Some(kernel) = self.loaded().get(&name).and_then(Weak::upgrade) {
            return Ok(Attempt::Loaded(kernel));
        }
        let ready = match (answer, self.device.needs_cubin()) {
            (Some(Ok(ready)), _) => Some(ready),
            (Some(Err(e)), true) => return Err(e.clone().into()),
            (None, true) => return Err(CompileError::Cancelled(name).into()),
            (_, false) => None,
        };
        let cubin = ready.map(|r| r.cubin.clone());
        let kernel = match (self.device.load(&spec.image(cubin)), ready) {
            (Err(DeviceError::BadImage { .. }), Some(ready)) => {
                return Ok(Attempt::Refused(ready.key));
            }
            (kernel, _) => kernel?,
        };
        self.loaded().insert(name, Arc::downgrade(&kernel));
        Ok(Attempt::Loaded(kernel))
    }

    /// Loads a kernel whose entry is damaged or foreign: puts that aside and compiles it anew, once.
    fn load_anew(&self, spec: &KernelSpec, refused: &Key) -> Result<Arc<dyn Kernel>, Error> {
        let name = spec.to_string();
        self.service.reject(refused);
        let request = self.requests(std::slice::from_ref(spec));
        let (fresh, _) = self.service.get_all(request, i64::MAX, |_| ());
        let cubin = match fresh.into_iter().next() {
            Some(Ok(ready)) => ready.cubin,
            Some(Err(e)) => return Err(e.into()),
            None => return Err(CompileError::Cancelled(name).into()),
        };
        let kernel = self.device.load(&spec.image(Some(cubin)))?;
        self.loaded().insert(name, Arc::downgrade(&kernel));
        Ok(kernel)
    }

    /// Of the kernels that a class is to have those that are in memory or in the cache. One that cannot be read or loaded is
    /// not there: who compiles the class will see why.
    pub(crate) fn at_hand(&self, draft: &Draft) -> Vec<Option<Arc<dyn Kernel>>> {
        let specs = &draft.distinct.specs;
        // a device that compiles nothing lacks nothing
        let lacking = !draft.requests.is_empty();
        let found = lacking.then(|| self.service.at_hand(&draft.requests));
        crew::map(specs, |i, spec| {
            let answer = match found.as_ref().map(|found| &found[i]) {
                Some(Ok(ready)) => Some(Ok(ready.clone())),
                Some(Err(_)) => return None,
                None => None,
            };
            match self.load(spec, answer.as_ref()) {
                Ok(Attempt::Loaded(kernel)) => Some(kernel),
                Ok(Attempt::Refused(_)) | Err(_) => None,
            }
        })
    }

    /// One kernel that was compiled or needs no cubin, loaded.
    ///
    /// # Errors
    ///
    /// Its answer's, or the device's; a cubin that the device refuses is put aside and not compiled anew.
    pub(crate) fn kernel(
        &self,
        spec: &KernelSpec,
        answer: Option<&Answer>,
    ) -> Result<Arc<dyn Kernel>, Error> {
        match self.load(spec, answer)? {
            Attempt::Loaded(kernel) => Ok(kernel),
            Attempt::Refused(key) => {
                self.service.reject(&key);
                let reason = "the device does not take it".to_owned();
                Err(DeviceError::BadImage {
                    kernel: spec.to_string(),
                    reason,
                }
                .into())
            }
        }
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<String, Weak<dyn Kernel>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a program of a blueprint whose kernels have their answers. Its plan is the session's.
    pub(crate) fn program(
        &self,
        id: u64,
        class: Option<ClassId>,
        blueprint: &Blueprint,
        distinct: &Distinct,
        answers: &[Answer],
    ) -> Result<Program, Error> {
        self.program_of(id, class, blueprint, distinct, answers, None)
    }

    /// The same, with a plan of its own if one is given.
    pub(crate) fn program_of(
        &self,
        id: u64,
        class: Option<bespoke_policy::ClassId>,
        blueprint: &Blueprint,
        distinct: &Distinct,
        answers: &[Answer],
        own: Option<Arc<Own>>,
    ) -> Result<Program, Error> {
        // All at once as long as all goes well. After the first that does not, one after the other: a driver that refuses
        // every image is not asked for each, and none is compiled anew for a program that fails all the same.
        let trouble = AtomicBool::new(false);
        let attempts = crew::map(&distinct.specs, |i, spec| {
            if trouble.load(Ordering::Relaxed) {
                return None;
            }
            let attempt = self.load(spec, answers.get(i));
            if !matches!(attempt, Ok(Attempt::Loaded(_))) {
                trouble.store(true, Ordering::Relaxed);
            }
            Some(attempt)
        });
        let mut kernels = Vec::with_capacity(distinct.specs.len());
        for (i, (spec, attempt)) in distinct.specs.iter().zip(attempts).enumerate() {
            let attempt = attempt.unwrap_or_else(|| self.load(spec, answers.get(i)));
            kernels.push(match attempt? {
                Attempt::Loaded(kernel) => kernel,
                Attempt::Refused(key) => self.load_anew(spec, &key)?,
            });
        }
        self.loaded().retain(|_, k| k.strong_count() > 0);
        let kernels = distinct
            .of_step
            .iter()
            .zip(&blueprint.configs)
            .map(|(&i, &config)| (kernels[i].clone(), config))
            .collect();
        Ok(Program {
            id,
            class,
            kernels,
            generic: blueprint.generic,
            own,
        })
    }
}

/// What a class's program is to be.
pub(crate) struct Draft {
    pub(crate) blueprint: Blueprint,
    pub(crate) distinct: Distinct,
    pub(crate) requests: Vec<Request>,
}

impl Draft {
    pub(crate) fn of(core: &Core, class: &ClassId, binding: &Binding) -> Draft {
        let props = core.loader.device.props();
        let mut blueprint = Blueprint::of(&core.plan, class, binding, props, core.bit_stable);
        let at = (&*core.plan, binding);
        let find = |kind: &StepKind| core.tiles.find(kind);
        let timed = !core.tiles.is_empty()
            && tiles::apply(&mut blueprint, at, props, core.bit_stable, find);
        let draft = Draft::with(core, blueprint);
        // a tile that was timed once is no reason to have no program, where nothing can be compiled
        let service = &core.loader.service;
        let can_have = |r: &[Request]| service.has_all(r) || r.iter().all(|r| service.can_make(r));
        match timed && !can_have(&draft.requests) {
            true => Draft::with(
                core,
                Blueprint::of(&core.plan, class, binding, props, core.bit_stable),
            ),
            false => draft,
        }
    }

    fn with(core: &Core, blueprint: Blueprint) -> Draft {
        let distinct = Distinct::of(&blueprint);
        let requests = core.loader.requests(&distinct.specs);
        Draft {
            blueprint,
            distinct,
            requests,
        }
    }
}

/// Compiles and loads the generic kernels of a run and of the setup, each distinct one once.
pub(crate) fn load_generic(
    loader: &Loader,
    run: &Blueprint,
    setup: &Blueprint,
    log: &Log,
) -> Result<(Arc<Program>, Program, usize), Error> {
    let (run_kernels, setup_kernels) = (Distinct::of(run), Distinct::of(setup));
    let mut answers = [Vec::new(), Vec::new()];
    if loader.device.needs_cubin() {
        let mut requests = loader.requests(&run_kernels.specs);
        requests.extend(loader.requests(&setup_kernels.specs));
        log.push(EventKind::Enqueue {
            class: "generic".into(),
            kernels: requests.len(),
            priority: i64::MAX,
            cause: Cause::Load,
            run: None,
            tier: 0,
            expected: None,
        });
        let told = |answer: &Answer| report(log, answer, Some("generic"));
        let (all, _) = loader.service.get_all(requests, i64::MAX, told);
        let (a, b) = all.split_at(run_kernels.specs.len());
        answers = [a.to_vec(), b.to_vec()];
    }
    let count = run_kernels.specs.len();
    let program = loader.program(0, None, run, &run_kernels, &answers[0])?;
    let setup = loader.program(u64::MAX, None, setup, &setup_kernels, &answers[1])?;
    Ok((Arc::new(program), setup, count))
}

/// Tells the log how a kernel came about; `class` is the one that it was asked for.
pub(crate) fn report(log: &Log, answer: &Answer, class: Option<&str>) {
    let class = class.map(str::to_owned);
    log.push(match answer {
        Ok(ready) => EventKind::Compile {
            kernel: ready.key.short(),
            origin: ready.origin,
            miss: ready.miss,
            micros: ready.micros,
            spec: ready.name.clone(),
            class,
            thread: ready.thread.clone(),
            begin_us: log.micros_at(ready.began),
            wall_us: ready.wall_us,
            stretched: ready.stretched,
        },
        Err(e) => EventKind::CompileFailed {
            kernel: e.kernel().to_owned(),
            reason: e.to_string(),
            class,
        },
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::service::ServiceOptions;
    use bespoke_cache::CacheConfig;
    use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
    use bespoke_templates::{Args, Cost, Param, Template, Tile};

    /// A template that counts how often a source is assembled of it.
    #[derive(Debug, Default)]
    struct Counted(AtomicUsize);

    impl Template for Counted {
        fn name(&self) -> &'static str {
            "counted"
        }

        fn describe(&self) -> String {
            "once".into()
        }

        fn params(&self) -> Vec<Param> {
            vec![Param::int("n")]
        }

        fn body(&self) -> &'static str {
            self.0.fetch_add(1, Ordering::Relaxed);
            "KERNEL { }"
        }

        fn definitions(&self, _: &DeviceProps) -> String {
            String::new()
        }

        fn tiles(&self, _: Option<&Args<'_>>, _: &DeviceProps) -> Vec<Tile> {
            vec![Tile::new(&[("THREADS", 32)])]
        }

        fn geometry(&self, _: &Tile, _: Option<&Args<'_>>, _: &DeviceProps) -> LaunchConfig {
            LaunchConfig {
                grid: [1; 3],
                block: 32,
                shared_bytes: 0,
            }
        }

        fn cost(&self, _: &Args<'_>) -> Cost {
            Cost::default()
        }

        fn run(&self, _: &Args<'_>, _: &mut [Operand<'_>]) -> Result<(), TwinError> {
            Ok(())
        }
    }

    #[test]
    fn a_source_is_assembled_once_for_equal_steps_and_equal_questions() {
        let device = bespoke_host::HostDevice::new(bespoke_host::HostOptions {
            target: Some(Arch::sm(89)),
            ..Default::default()
        });
        let folder = tempfile::tempdir().unwrap();
        let service = CompileService::new(ServiceOptions {
            cache: CacheConfig::at(folder.path().join("cache")),
            ..ServiceOptions::default()
        });
        let loader = Loader::new(device, service.unwrap());
        let template = Arc::new(Counted::default());
        let props = loader.device.props();
        let spec = || KernelSpec::generic(template.clone(), props);
        let blueprint = Blueprint {
            specs: (0..100).map(|_| spec()).collect(),
            configs: Vec::new(),
            fixed: Vec::new(),
            generic: 100,
        };
        for _ in 0..3 {
            let distinct = Distinct::of(&blueprint);
            assert_eq!(distinct.of_step, [0; 100]);
            assert_eq!(loader.requests(&distinct.specs).len(), 1);
        }
        assert_eq!(template.0.load(Ordering::Relaxed), 1);
    }
}
