//! From compiled kernels to a program in service, and out of it again.
//!
//! Everything is made beside the path: kernels are loaded, a second tier's weights are prepared, graphs are made on every
//! lane. Then the program is exchanged under a lock that runs hold only to pick one. A run that has picked the program
//! which leaves goes on with it and its graph; the graph is given back when no run holds it any more.

use std::sync::Arc;
use std::time::Instant;

use bespoke_policy::{ClassId, Tier, What};

use super::Director;
use super::compile::{Build, Wanted};
use crate::error::Error;
use crate::event::EventKind;
use crate::kernels::Answer;
use crate::lessons::Second;
use crate::program::{Own, Program};
use crate::second::Replanned;
use crate::trial::Verdict;
use crate::weights::{Loading, Weights};

/// What an install took.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) tier: Tier,
    pub(super) kernels: usize,
    pub(super) compile_us: u64,
    pub(super) install_us: u64,
    /// Whether it has the steps of the program in service, with tiles that were timed.
    pub(super) refined: bool,
}

impl Director {
    pub(super) fn install(&mut self, class: &ClassId) {
        let Some((wanted, answers)) = self.compiled.remove(class) else {
            return;
        };
        let start = Instant::now();
        let tier = wanted.asked.tier;
        let kernels = wanted.build.as_ref().map_or(0, Build::kernels);
        let since = wanted.since;
        // the replies of runs that wait go on when the program serves
        let (program, _replies) = match self.make_ready(class, wanted, &answers) {
            Ok(made) => made,
            Err(e) => return self.refuse(class, tier, e.to_string()),
        };
        let times = Times {
            tier,
            kernels,
            compile_us: (start - since).as_micros() as u64,
            install_us: start.elapsed().as_micros() as u64,
            refined: false,
        };
        self.offer(class, program, times);
    }

    /// Puts a program that is ready in service, or on trial first if that is asked for.
    pub(super) fn offer(&mut self, class: &ClassId, program: Arc<Program>, times: Times) {
        if self.core.verify_swap {
            self.trials.insert(class.clone(), times);
            return self.core.put_candidate(class, program);
        }
        self.put_in_service(class, program, times);
    }

    /// Loads a class's kernels and makes its graph on every lane.
    fn make_ready(
        &mut self,
        class: &ClassId,
        wanted: Wanted,
        answers: &[Answer],
    ) -> Result<(Arc<Program>, Vec<super::Reply>), Error> {
        let core = &self.core;
        let id = self.next_program;
        self.next_program += 1;
        let named = Some(class.clone());
        let program = match wanted.build {
            Some(Build::First(blueprint, distinct)) => core
                .loader
                .program(id, named, &blueprint, &distinct, answers)?,
            Some(Build::Second(replanned)) => self.second(id, class, *replanned, answers)?,
            // only what is planned is compiled, and only what is compiled gets here
            None => return Err(Error::Stopped),
        };
        let program = Arc::new(program);
        self.make_graphs(&program)?;
        Ok((program, wanted.replies))
    }

    /// Makes a program's graph on every lane, unless runs launch kernel by kernel.
    pub(super) fn make_graphs(&self, program: &Program) -> Result<(), Error> {
        let core = &self.core;
        if !core.whole_graph {
            return Ok(());
        }
        let plan = program.plan(&core.plan);
        for lane in core.executables() {
            let (device, stream) = (&*core.loader.device, &*self.stream);
            if let Err(e) = lane.prepare(program, plan, device, stream, &core.log) {
                // what the lanes before have of it is given back
                self.retire(program);
                return Err(e);
            }
        }
        Ok(())
    }

    /// A program with a plan of its own. What its setup makes, and the session does not have, is made now.
    fn second(
        &self,
        id: u64,
        class: &ClassId,
        replanned: Replanned,
        answers: &[Answer],
    ) -> Result<Program, Error> {
        let core = &self.core;
        let loader = &core.loader;
        let (run, setup) = answers.split_at(answers.len().min(replanned.distinct.specs.len()));
        let setup = loader.program(
            u64::MAX,
            None,
            &replanned.setup,
            &replanned.setup_distinct,
            setup,
        )?;
        let loading = Loading {
            plan: &replanned.plan,
            device: &loader.device,
            stream: &*self.stream,
            shelf: loader.service.shelf(),
            ledger: &core.ledger,
            base: Some(&core.weights),
        };
        let own = Own {
            weights: Weights::load(&loading, &setup).map_err(|e| e.with_memory(&core.ledger))?,
            plan: replanned.plan,
            binding: replanned.binding,
        };
        let (blueprint, distinct) = (&replanned.blueprint, &replanned.distinct);
        let own = Some(Arc::new(own));
        loader.program_of(id, Some(class.clone()), blueprint, distinct, run, own)
    }

    fn put_in_service(&mut self, class: &ClassId, program: Arc<Program>, times: Times) {
        let left = self.core.put_program(class, program);
        let replaces = left.is_some();
        self.leaving.extend(left);
        self.core.log.push(EventKind::Install {
            class: class.to_string(),
            kernels: times.kernels,
            compile_us: times.compile_us,
            install_us: times.install_us,
            tier: times.tier.number(),
            replaces,
            refined: times.refined,
        });
        if times.refined {
            return self.refinement_serves(class);
        }
        if times.tier == Tier::Second {
            self.learn_second(class, Second::Serves);
        }
        let (class, tier) = (class.clone(), times.tier);
        self.event(What::Installed { class, tier }, None);
    }

    /// A class does not get a program after all; asking for it again would fail again.
    fn refuse(&mut self, class: &ClassId, tier: Tier, reason: String) {
        self.core.log.push(EventKind::Reject {
            class: class.to_string(),
            reason,
            tier: tier.number(),
        });
        let class = class.clone();
        self.event(What::InstallFailed { class, tier }, None);
    }

    pub(super) fn judged(
        &mut self,
        class: &ClassId,
        candidate: Arc<Program>,
        verdict: Result<Verdict, Error>,
    ) {
        // evicted while it was tried
        let Some(times) = self.trials.remove(class) else {
            return self.leaving.push(candidate);
        };
        let reason = match &verdict {
            Ok(verdict) => verdict.reason.clone(),
            Err(e) => Some(e.to_string()),
        };
        if let Ok(verdict) = verdict {
            self.core.log.push(EventKind::Trial {
                class: class.to_string(),
                passed: reason.is_none(),
                max_abs: verdict.max_abs,
                served_us: verdict.served_us,
                candidate_us: verdict.candidate_us,
                tier: times.tier.number(),
            });
        }
        match reason {
            None => self.put_in_service(class, candidate, times),
            Some(reason) => {
                self.leaving.push(candidate);
                match times.refined {
                    true => self.refinement_fails(class, times.tier, reason),
                    false => self.refuse(class, times.tier, reason),
                }
            }
        }
    }

    fn retire(&self, program: &Program) {
        for lane in self.core.executables() {
            lane.retire(program);
        }
    }

    /// Gives back the graphs of programs that left and that no run holds. One that a run holds is looked at again with
    /// the next message: without its graph, that run would have to record it anew.
    pub(super) fn see_off(&mut self) {
        let gone = |program: &mut Arc<Program>| Arc::strong_count(program) == 1;
        for program in self.leaving.extract_if(.., gone).collect::<Vec<_>>() {
            self.retire(&program);
        }
    }

    /// Takes a class's programs out of service, and calls off what is being made for it.
    pub(super) fn withdraw(&mut self, class: &ClassId, reason: &'static str) {
        // if it is its first tier that is wanted, it left before and came back already
        let wanted = self.wanted.get(class).map(|w| w.asked.tier);
        if wanted == Some(Tier::Second) {
            self.cancel(class, "evicted");
        }
        self.leave_refining(Some(class), "evicted");
        self.compiled.remove(class);
        self.trials.remove(class);
        let candidate = self.core.drop_candidate(class);
        let served = self.core.take_program(class);
        self.leaving.extend(served.into_iter().chain(candidate));
        self.see_off();
        self.core.log.push(EventKind::Evict {
            class: class.to_string(),
            reason,
        });
        let class = class.clone();
        self.event(What::Evicted { class }, None);
    }
}
