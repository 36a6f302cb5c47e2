//! From a wish for a class to all of its kernels: planning anew where that is asked for, asking the compile service,
//! gathering its answers, calling it off.
//!
//! A class has one thing wanted at a time. Each has a number, by which answers that come after it was called off are told
//! from those to what is wanted now.

use std::time::Instant;

use bespoke_policy::{ClassId, Signature, Tier, What};

use super::{Director, Message, Reply};
use crate::error::Error;
use crate::event::{Cause, EventKind, Expected};
use crate::kernels::{Answer, Distinct, Draft, report};
use crate::lessons::{PROGRAM, Second};
use crate::program::Blueprint;
use crate::second::{Keep, Planner, Replanned, SAME_KERNELS, Source, Without};
use crate::service::{Lacking, Request, Ticket};

/// How a class's kernels were asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) tier: Tier,
    pub(super) priority: i64,
    /// Why, and the run that caused it, if one did.
    pub(super) cause: (Cause, Option<u64>),
    pub(super) expected: Option<Expected>,
    /// Whether it is wanted only if nothing has to be compiled.
    pub(super) at_hand: bool,
}

/// What a program is to be made of.
pub(super) enum Build {
    /// The session's plan with other kernels.
    First(Blueprint, Distinct),
    /// A plan of its own.
    Second(Box<Replanned>),
}

impl Build {
    /// Distinct kernels of a run.
    pub(super) fn kernels(&self) -> usize {
        match self {
            Build::First(_, distinct) => distinct.specs.len(),
            Build::Second(replanned) => replanned.distinct.specs.len(),
        }
    }
}

/// A class whose kernels are under way.
pub(super) struct Wanted {
    /// Tells its answers from those of an earlier request for the class that was called off.
    pub(super) request: u64,
    pub(super) asked: Asked,
    tickets: Vec<Ticket>,
    /// `None` while it is being planned.
    pub(super) build: Option<Build>,
    answers: Vec<Option<Answer>>,
    missing: usize,
    pub(super) replies: Vec<Reply>,
    pub(super) since: Instant,
}

impl Director {
    /// Compiles the generic kernels for a target whose cubins this device stores but does not run.
    pub(crate) fn compile_in_background(&mut self, blueprint: &Blueprint) {
        let requests = self.core.loader.requests(&Distinct::of(blueprint).specs);
        self.background += requests.len();
        self.core.log.push(EventKind::Enqueue {
            class: "generic".into(),
            kernels: requests.len(),
            priority: 0,
            cause: Cause::Load,
            run: None,
            tier: 0,
            expected: None,
        });
        let requests = requests.into_iter().enumerate();
        let requests = requests.map(|(i, r)| (i, r, None)).collect();
        self.background_tickets = self.submit(None, 0, requests, 0);
    }

    fn submit(
        &self,
        class: Option<&ClassId>,
        request: u64,
        kernels: Vec<Lacking>,
        priority: i64,
    ) -> Vec<Ticket> {
        let service = &self.core.loader.service;
        let submit = |(index, kernel, missed): Lacking| {
            let sender = self.sender.clone();
            let class = class.cloned();
            service.submit_missed(kernel, missed, priority, move |answer| {
                // a session that is gone needs no answer
                let _ = sender.send(Message::Answer {
                    class,
                    request,
                    index,
                    answer: Box::new(answer),
                });
            })
        };
        let order = service.longest_first(kernels);
        order.into_iter().map(submit).collect()
    }

    pub(super) fn specialise(
        &mut self,
        class: ClassId,
        shape: &Signature,
        asked: Asked,
        replies: Vec<Reply>,
    ) {
        self.next_request += 1;
        let wanted = Wanted {
            request: self.next_request,
            asked,
            tickets: Vec::new(),
            build: None,
            answers: Vec::new(),
            missing: 0,
            replies,
            since: Instant::now(),
        };
        self.wanted.insert(class.clone(), wanted);
        if asked.tier == Tier::Second {
            return self.replan(class, shape, asked.at_hand);
        }
        let core = self.core.clone();
        let draft = match self.draft.take() {
            Some((of, at, draft)) if of == class && at == *shape => draft,
            _ => match core.plan.bind_symbols(shape.dims().to_vec()) {
                Ok(binding) => Draft::of(&core, &class, &binding),
                Err(e) => {
                    self.wanted.remove(&class);
                    return self.finished(&class, asked.tier, 0, Err(e.into()));
                }
            },
        };
        let build = Build::First(draft.blueprint, draft.distinct);
        self.build(&class, build, draft.requests);
    }

    /// Has the model planned anew for a class, unless it is clear that nothing can come of it.
    fn replan(&mut self, class: ClassId, shape: &Signature, at_hand: bool) {
        let core = &self.core;
        let source = match (&core.graph, &class) {
            // other plans have other sums
            _ if core.bit_stable => {
                Err(Keep::new("bit-stable", "the order of sums must not change"))
            }
            (Some(graph), ClassId::Exact(_)) => Ok(Source {
                plan: core.plan.clone(),
                graph: graph.clone(),
                device: core.loader.device.clone(),
                service: core.loader.service.clone(),
                tiles: core.tiles.clone(),
            }),
            _ => Err(Keep::new(
                "not-one-shape",
                "a plan of its own is for one shape",
            )),
        };
        let request = self.wanted.get(&class).map_or(0, |w| w.request);
        let planner = source.and_then(|source| {
            if self.planner.is_none() {
                let started = Planner::new(source, self.sender.clone());
                let planner = started
                    .map_err(|e| Keep::new("failed", format!("no thread for the planner: {e}")))?;
                self.planner = Some(planner);
            }
            Ok(())
        });
        if let Err(keep) = planner {
            return self.keep(&class, keep);
        }
        // it was there, or was started a moment ago
        if let Some(planner) = &self.planner {
            planner.ask(class, request, shape.clone(), at_hand);
        }
    }

    /// The planner has answered.
    pub(super) fn replanned(
        &mut self,
        class: &ClassId,
        request: u64,
        result: Result<Replanned, Without>,
    ) {
        if self.wanted.get(class).map(|w| w.request) != Some(request) {
            return;
        }
        match result {
            Err(Without::Kept(keep)) => self.keep(class, keep),
            Err(Without::Later(kernels)) => self.postpone(class, kernels),
            Ok(mut replanned) => {
                self.core.log.push(EventKind::Replan {
                    class: class.to_string(),
                    steps_before: self.core.plan.steps.len(),
                    steps: replanned.plan.steps.len(),
                    setup_steps: replanned.plan.setup.len(),
                    micros: replanned.micros,
                });
                let requests = std::mem::take(&mut replanned.requests);
                self.build(class, Build::Second(Box::new(replanned)), requests);
            }
        }
    }

    /// A class keeps the program of its first tier.
    fn keep(&mut self, class: &ClassId, keep: Keep) {
        self.wanted.remove(class);
        if keep.reason == SAME_KERNELS {
            self.learn_second(class, Second::SameKernels(PROGRAM.into()));
        }
        self.core.log.push(EventKind::Keep {
            class: class.to_string(),
            reason: keep.reason,
            detail: keep.detail,
        });
        let class = class.clone();
        self.event(What::Kept { class }, None);
    }

    /// A class has no second tier for now, since kernels would have to be compiled for it.
    fn postpone(&mut self, class: &ClassId, kernels: usize) {
        if let Some(wanted) = self.wanted.get_mut(class) {
            wanted.missing = kernels;
        }
        self.cancel(class, "not-cached");
        let class = class.clone();
        self.event(What::Postponed { class }, None);
    }

    /// Asks for the kernels of what a class is to have. What is there is taken at once, on all processors; only what is not
    /// goes through the pool.
    fn build(&mut self, class: &ClassId, build: Build, requests: Vec<Request>) {
        let Some(wanted) = self.wanted.get_mut(class) else {
            return;
        };
        let Asked {
            tier,
            priority,
            cause: (cause, run),
            expected,
            at_hand: _,
        } = wanted.asked;
        self.core.log.push(EventKind::Enqueue {
            class: class.to_string(),
            kernels: build.kernels().max(requests.len()),
            priority,
            cause,
            run,
            tier: tier.number(),
            expected,
        });
        wanted.build = Some(build);
        let number = wanted.request;
        let (answers, lacking) = self.take_at_hand(class, requests);
        let none = lacking.is_empty();
        if let Some(wanted) = self.wanted.get_mut(class) {
            (wanted.answers, wanted.missing) = (answers, lacking.len());
        }
        let tickets = self.submit(Some(class), number, lacking, priority);
        if let Some(wanted) = self.wanted.get_mut(class) {
            wanted.tickets = tickets;
        }
        if none {
            self.complete(class);
        }
    }

    /// Of the kernels that a class asks for those that are there, which the log is told of, and those that are not.
    pub(super) fn take_at_hand(
        &self,
        class: &ClassId,
        requests: Vec<Request>,
    ) -> (Vec<Option<Answer>>, Vec<Lacking>) {
        let at_hand = self.core.loader.service.at_hand(&requests);
        let mut lacking = Vec::new();
        let found = at_hand.into_iter().zip(requests).enumerate();
        let answers = found.map(|(index, (found, request))| match found {
            Ok(ready) => {
                let answer = Ok(ready);
                report(&self.core.log, &answer, Some(&class.to_string()));
                Some(answer)
            }
            Err(missed) => {
                lacking.push((index, request, missed));
                None
            }
        });
        let answers = answers.collect();
        (answers, lacking)
    }

    pub(super) fn answered(
        &mut self,
        class: Option<ClassId>,
        request: u64,
        index: usize,
        answer: Answer,
    ) {
        let Some(class) = class else {
            report(&self.core.log, &answer, Some("generic"));
            self.background = self.background.saturating_sub(1);
            return;
        };
        let wanted = self.wanted.get_mut(&class);
        let Some(wanted) = wanted.filter(|w| w.request == request) else {
            return;
        };
        report(&self.core.log, &answer, Some(&class.to_string()));
        if wanted.answers[index].replace(answer).is_none() {
            wanted.missing -= 1;
        }
        if wanted.missing == 0 {
            self.complete(&class);
        }
    }

    /// Every kernel of a class has its answer.
    fn complete(&mut self, class: &ClassId) {
        let Some(mut wanted) = self.wanted.remove(class) else {
            return;
        };
        let answers: Vec<Answer> = wanted.answers.drain(..).flatten().collect();
        let micros = answers
            .iter()
            .filter_map(|a| a.as_ref().ok())
            .map(|r| r.micros)
            .sum();
        let tier = wanted.asked.tier;
        let failure = answers.iter().find_map(|a| a.as_ref().err().cloned());
        match failure {
            Some(e) => self.finished(class, tier, micros, Err(e.into())),
            None => {
                self.compiled.insert(class.clone(), (wanted, answers));
                self.finished(class, tier, micros, Ok(()));
            }
        }
    }

    fn finished(&mut self, class: &ClassId, tier: Tier, micros: u64, result: Result<(), Error>) {
        if let Err(e) = &result {
            self.core.log.push(EventKind::Reject {
                class: class.to_string(),
                reason: e.to_string(),
                tier: tier.number(),
            });
        }
        let ok = result.is_ok();
        self.event(
            What::CompileFinished {
                class: class.clone(),
                tier,
                ok,
                micros,
            },
            None,
        );
    }

    /// Calls off what is wanted of a class; kernels that others wait for as well are compiled all the same.
    pub(super) fn cancel(&mut self, class: &ClassId, reason: &'static str) {
        let Some(wanted) = self.wanted.remove(class) else {
            return;
        };
        for ticket in &wanted.tickets {
            ticket.cancel();
        }
        self.core.log.push(EventKind::Cancel {
            class: class.to_string(),
            kernels: wanted.missing,
            reason,
            tier: wanted.asked.tier.number(),
        });
    }

    /// The session ends: calls off everything. What other sessions wait for is compiled all the same.
    pub(super) fn call_off(&mut self) {
        let classes: Vec<ClassId> = self.wanted.keys().cloned().collect();
        for class in classes {
            self.cancel(&class, "dropped");
        }
        if self.background > 0 {
            for ticket in &self.background_tickets {
                ticket.cancel();
            }
            self.core.log.push(EventKind::Cancel {
                class: "generic".into(),
                kernels: self.background,
                reason: "dropped",
                tier: 0,
            });
        }
    }
}
