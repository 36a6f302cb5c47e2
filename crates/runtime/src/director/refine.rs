//! Refining a class: from a wish of the policy to a program with tiles that were timed.
//!
//! In order: which steps of the program in service have tiles that may be better, and which of them cost most (a survey on
//! the device); kernels for those tiles, compiled behind everything else; each of these places timed with all of its
//! kernels; one new program with the winners, installed like any other. Between two places the director does what else
//! there is to do, so that nothing waits longer for it than one place takes.
//!
//! There is one refinement at a time. It holds the program that it began with; if that leaves, or the session ends, it is
//! called off. Whatever comes of it, the policy hears the end once and does not ask again, and what was found out about a
//! kind of step is remembered for the device ([`crate::tiles`]): with `--verify-swap` when the trial is over, since a tile
//! that was wrong or slower on live data must not come back.

mod end;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bespoke_device::Memory;
use bespoke_plan::{Binding, Plan};
use bespoke_policy::{ClassId, Signature};
use bespoke_templates::KernelSpec;

use super::{Director, Message};
use crate::error::{Error, ErrorKind};
use crate::event::{EventKind, Timing};
use crate::kernels::{Answer, report};
use crate::program::{Blueprint, Program};
use crate::refine::{
    BUDGET_US, Loaded, PLACES, Place, Rig, places, scratch, scratch_bytes, winner,
};
use crate::service::Ticket;
use crate::tiles::{self, KnownTile, StepKind};

/// What the director tells itself, and compile threads tell it, about a refinement.
#[derive(Debug)]
pub(crate) enum Note {
    /// A candidate's kernel is compiled, or failed to.
    Answer {
        request: u64,
        index: usize,
        answer: Box<Answer>,
    },
    /// The next place is to be timed.
    Next { request: u64 },
}

/// What was found out about a kind of step.
pub(super) type Found = (StepKind, KnownTile);

/// A class that is being refined.
pub(super) struct Refining {
    /// Tells its answers from those of an earlier refinement.
    request: u64,
    class: ClassId,
    shape: Signature,
    /// The program in service when it began.
    program: Arc<Program>,
    plan: Arc<Plan>,
    binding: Arc<Binding>,
    places: Vec<Place>,
    /// The kernels of all candidates, by their place in `answers`.
    asked: BTreeMap<String, usize>,
    answers: Vec<Option<Answer>>,
    missing: usize,
    tickets: Vec<Ticket>,
    /// Scratch memory, while places are timed.
    memory: Option<Arc<dyn Memory>>,
    /// The place that is timed next.
    at: usize,
    /// Device time so far, in microseconds.
    device_us: f64,
    found: Vec<Found>,
    timed: usize,
    /// What the steps of a run take less, in microseconds.
    saves_us: f64,
    since: Instant,
}

/// Why a refinement changes nothing: a stable code, and words.
type Nothing = (&'static str, String);

fn nothing(reason: &'static str, detail: impl Into<String>) -> Nothing {
    (reason, detail.into())
}

fn failed(error: &Error) -> Nothing {
    let reason = match error.kind() {
        ErrorKind::OutOfMemory => "no-memory",
        _ => "failed",
    };
    nothing(reason, error.to_string())
}

impl Director {
    /// Whether a class is being refined.
    pub(super) fn is_refining(&self) -> bool {
        self.refining.is_some()
    }

    /// Begins to refine a class.
    pub(super) fn refine(&mut self, class: &ClassId, shape: &Signature, priority: i64) {
        self.next_request += 1;
        let begun = self.begin(class, shape).and_then(|mut refining| {
            let surveyed = self.survey(&mut refining);
            surveyed.map_err(|e| failed(&e))?;
            Ok(refining)
        });
        match begun {
            Ok(refining) => self.ask_for_candidates(refining, priority),
            Err((reason, detail)) => {
                self.tell_of_refined(class, None, (reason, detail));
                self.refined(class, 0);
            }
        }
    }

    /// The program of a class and its places, or why there is nothing to do.
    fn begin(&self, class: &ClassId, shape: &Signature) -> Result<Refining, Nothing> {
        let core = &self.core;
        let Some(program) = core.serving(class) else {
            return Err(nothing("gone", "the class has no program any more"));
        };
        let (plan, binding) = match &program.own {
            Some(own) => (own.plan.clone(), own.binding.clone()),
            None => {
                let bound = core.plan.bind_symbols(shape.dims().to_vec());
                let binding = bound.map_err(|e| nothing("failed", e.to_string()))?;
                (core.plan.clone(), Arc::new(binding))
            }
        };
        let blueprint = self.blueprint(class, &plan, &binding, |_| None);
        let at = (&*plan, &*binding);
        let props = core.loader.device.props();
        let places = places(&blueprint, at, props, core.bit_stable, &core.tiles);
        if places.is_empty() {
            let detail = "no step has a tile that may be better and was not timed before";
            return Err(nothing("nothing-to-time", detail));
        }
        Ok(Refining {
            request: self.next_request,
            class: class.clone(),
            shape: shape.clone(),
            program,
            plan,
            binding,
            places,
            asked: BTreeMap::new(),
            answers: Vec::new(),
            missing: 0,
            tickets: Vec::new(),
            memory: None,
            at: 0,
            device_us: 0.0,
            found: Vec::new(),
            timed: 0,
            saves_us: 0.0,
            since: Instant::now(),
        })
    }

    /// The kernels of a class as they are to be by what is known, and by what `found` adds to it.
    fn blueprint(
        &self,
        class: &ClassId,
        plan: &Plan,
        binding: &Binding,
        found: impl Fn(&StepKind) -> Option<String>,
    ) -> Blueprint {
        let (core, props) = (&self.core, self.core.loader.device.props());
        let mut blueprint = Blueprint::of(plan, class, binding, props, core.bit_stable);
        let find = |kind: &StepKind| found(kind).or_else(|| core.tiles.find(kind));
        tiles::apply(
            &mut blueprint,
            (plan, binding),
            props,
            core.bit_stable,
            find,
        );
        blueprint
    }

    /// Finds out which places cost most, and leaves the others alone.
    fn survey(&self, refining: &mut Refining) -> Result<(), Error> {
        let core = &self.core;
        let bytes = scratch_bytes(&refining.plan, &refining.binding, &refining.places);
        let memory = scratch(&*core.loader.device, &core.ledger, bytes)?;
        let weights = refining.program.weights(&core.weights);
        let rig = Rig::new(
            memory,
            (&*core.loader.device, &*self.stream),
            (&refining.plan, &refining.binding, weights),
        );
        let surveyed = rig.survey(&mut refining.places, &refining.program);
        // memory is given back when nothing uses it any more
        self.stream.synchronize()?;
        refining.device_us += surveyed?;
        refining.places.truncate(PLACES);
        Ok(())
    }

    /// Asks for the kernels of all candidates, behind everything else.
    fn ask_for_candidates(&mut self, mut refining: Refining, priority: i64) {
        let core = self.core.clone();
        let mut specs: Vec<KernelSpec> = Vec::new();
        for (spec, _) in refining.places.iter().flat_map(|p| &p.candidates) {
            refining.asked.entry(spec.to_string()).or_insert_with(|| {
                specs.push(spec.clone());
                specs.len() - 1
            });
        }
        let requests = core.loader.requests(&specs);
        core.log.push(EventKind::Refine {
            class: refining.class.to_string(),
            tier: refining.program.tier_number(),
            places: refining.places.len(),
            steps: refining.places.iter().map(|p| p.steps.len()).sum(),
            candidates: specs.len(),
            kernels: requests.len(),
            priority,
            survey_us: refining.device_us as u64,
        });
        let (answers, lacking) = self.take_at_hand(&refining.class, requests);
        (refining.answers, refining.missing) = (answers, lacking.len());
        let number = refining.request;
        for (index, request, missed) in core.loader.service.longest_first(lacking) {
            let sender = self.sender.clone();
            let told = move |answer| {
                // a session that is gone needs no answer
                let _ = sender.send(Message::Refine(Note::Answer {
                    request: number,
                    index,
                    answer: Box::new(answer),
                }));
            };
            let service = &core.loader.service;
            let ticket = service.submit_missed(request, missed, priority, told);
            refining.tickets.push(ticket);
        }
        let none = refining.missing == 0;
        self.refining = Some(refining);
        if none {
            self.go_on(number);
        }
    }

    fn go_on(&self, request: u64) {
        // the director holds the other end
        let _ = self.sender.send(Message::Refine(Note::Next { request }));
    }

    pub(super) fn refine_note(&mut self, note: Note) {
        let number = match &note {
            Note::Answer { request, .. } | Note::Next { request } => *request,
        };
        let refining = self.refining.as_mut();
        let Some(refining) = refining.filter(|r| r.request == number) else {
            return;
        };
        match note {
            Note::Answer { index, answer, .. } => {
                let class = refining.class.to_string();
                match &*answer {
                    Ok(_) => report(&self.core.log, &answer, Some(&class)),
                    // nobody lacks it
                    Err(e) => self.core.log.push(EventKind::Untimed {
                        class,
                        kernel: e.kernel().to_owned(),
                        reason: e.to_string(),
                        compiled: false,
                    }),
                }
                if refining.answers[index].replace(*answer).is_none() {
                    refining.missing -= 1;
                }
                if refining.missing == 0 {
                    self.go_on(number);
                }
            }
            Note::Next { .. } => {
                let Some(mut refining) = self.refining.take() else {
                    return;
                };
                match self.time_next(&mut refining) {
                    Ok(true) => {
                        self.refining = Some(refining);
                        self.go_on(number);
                    }
                    Ok(false) => self.conclude(refining),
                    Err(e) => {
                        // what was queued is over before the memory that it uses is given back; its error was told
                        let _ = self.stream.synchronize();
                        refining.memory = None;
                        let (reason, detail) = failed(&e);
                        self.give_up(refining, reason, detail);
                    }
                }
            }
        }
    }

    /// Times a place; whether there was one left.
    fn time_next(&self, refining: &mut Refining) -> Result<bool, Error> {
        let core = &self.core;
        let Some(place) = refining.places.get(refining.at) else {
            self.stream.synchronize()?;
            refining.memory = None;
            return Ok(false);
        };
        let memory = match &refining.memory {
            Some(memory) => memory.clone(),
            None => {
                let bytes = scratch_bytes(&refining.plan, &refining.binding, &refining.places);
                let memory = scratch(&*core.loader.device, &core.ledger, bytes)?;
                refining.memory.insert(memory).clone()
            }
        };
        let present = place.steps.first();
        let present = present.and_then(|&i| refining.program.kernels.get(i));
        let Some(present) = present.cloned() else {
            return Ok(false);
        };
        let (mut kernels, mut specs) = (vec![present], vec![&place.spec]);
        for (spec, config) in &place.candidates {
            let index = refining.asked.get(&spec.to_string());
            let answer = index.and_then(|&i| refining.answers.get(i)?.as_ref());
            if let Some(kernel) = self.candidate(&refining.class, spec, answer)? {
                kernels.push((kernel, *config));
                specs.push(spec);
            }
        }
        let left = BUDGET_US - refining.device_us;
        // a place that costs more may take more of what is left
        let later: f64 = refining.places[refining.at..]
            .iter()
            .map(|p| p.cost_us)
            .sum();
        let share = left * (place.cost_us / later.max(0.1)).max(0.25);
        let begin = Instant::now();
        let (times, took) = if kernels.len() < 2 {
            (None, 0.0)
        } else {
            let weights = refining.program.weights(&core.weights);
            let at = (&*refining.plan, &*refining.binding, weights);
            let on = (&*core.loader.device, &*self.stream);
            let rig = Rig::new(memory, on, at);
            self.compare(&rig, place, &kernels, share)?
        };
        refining.device_us += took;
        refining.at += 1;
        let Some(times) = times else {
            return Ok(true);
        };
        let won = winner(&times);
        refining.timed += 1;
        refining.saves_us += (times[0] - times[won]) * place.steps.len() as f64;
        let tile = |i: usize| specs[i].tile.to_string();
        let found = KnownTile {
            step: place.kind.text.clone(),
            tile: tile(won),
            us: times[won],
            model: tile(0),
            model_us: times[0],
            timed: times.len() as u64,
            at: 0,
        };
        core.log.push(EventKind::Timed {
            class: refining.class.to_string(),
            step: place
                .steps
                .first()
                .map_or(String::new(), |&i| refining.plan.steps[i].name.clone()),
            steps: place.steps.len(),
            kernel: place.kind.text.clone(),
            tiles: (0..times.len())
                .map(|i| Timing {
                    tile: tile(i),
                    us: times[i],
                })
                .collect(),
            won,
            device_us: took as u64,
            micros: begin.elapsed().as_micros() as u64,
        });
        refining.found.push((place.kind.clone(), found));
        Ok(true)
    }

    fn compare(
        &self,
        rig: &Rig<'_>,
        place: &Place,
        kernels: &[Loaded],
        share: f64,
    ) -> Result<(Option<Vec<f64>>, f64), Error> {
        let compared = rig.compare(place, kernels, share);
        self.stream.synchronize()?;
        compared
    }

    /// Loads a candidate's kernel; `None` if it did not compile or the device does not take it, which is not tried again.
    fn candidate(
        &self,
        class: &ClassId,
        spec: &KernelSpec,
        answer: Option<&Answer>,
    ) -> Result<Option<Arc<dyn bespoke_device::Kernel>>, Error> {
        let core = &self.core;
        let loaded = match answer {
            // its failure was told when it came
            Some(Err(_)) => {
                core.tiles.failed(spec);
                return Ok(None);
            }
            answer => core.loader.kernel(spec, answer),
        };
        match loaded {
            Ok(kernel) => Ok(Some(kernel)),
            Err(e) if matches!(e.kind(), ErrorKind::DeviceLost) => Err(e),
            Err(e) => {
                core.tiles.failed(spec);
                core.log.push(EventKind::Untimed {
                    class: class.to_string(),
                    kernel: spec.to_string(),
                    reason: e.to_string(),
                    compiled: true,
                });
                Ok(None)
            }
        }
    }
}
