//! How a refinement ends: with a program of the winners, with nothing to change, or called off.

use std::collections::BTreeMap;
use std::sync::Arc;

use bespoke_policy::{ClassId, Tier, What};

use super::{Found, Nothing, Refining, failed, nothing};
use crate::director::Director;
use crate::director::install::Times;
use crate::event::EventKind;
use crate::kernels::{Answer, Distinct};
use crate::program::Program;
use crate::tiles::{KnownTile, StepKind};

impl Director {
    /// Every place is timed: makes a program of the winners, if there are any, and offers it.
    pub(super) fn conclude(&mut self, mut refining: Refining) {
        let micros = compile_us(&refining);
        let class = refining.class.clone();
        let won = |f: &Found| f.1.tile != f.1.model;
        if !refining.found.iter().any(won) {
            self.remember(std::mem::take(&mut refining.found));
            let (reason, detail) = match refining.timed {
                0 => ("nothing-timed", "no candidate could be timed"),
                _ => ("model-was-right", "no tile is clearly faster"),
            };
            self.tell_of_refined(&class, Some(&refining), nothing(reason, detail));
            return self.refined(&class, micros);
        }
        match self.program_of_winners(&refining) {
            Ok((program, kernels)) => {
                self.tell_of_refined(&class, Some(&refining), nothing("won", ""));
                let times = Times {
                    tier: program.tier().unwrap_or(Tier::First),
                    kernels,
                    compile_us: refining.since.elapsed().as_micros() as u64,
                    install_us: 0,
                    refined: true,
                };
                self.unproven.insert(class.clone(), refining.found);
                // it holds the program whose place is taken
                drop(refining.program);
                self.offer(&class, program, times);
            }
            Err((reason, detail)) => return self.give_up(refining, reason, detail),
        }
        self.refined(&class, micros);
    }

    /// The program of a class with the tiles that won.
    fn program_of_winners(
        &mut self,
        refining: &Refining,
    ) -> Result<(Arc<Program>, usize), Nothing> {
        let core = self.core.clone();
        let class = &refining.class;
        let serves = core.serving(class);
        if !serves.is_some_and(|p| Arc::ptr_eq(&p, &refining.program)) {
            return Err(nothing("gone", "another program serves the class by now"));
        }
        let tiles: BTreeMap<&str, &str> = refining
            .found
            .iter()
            .map(|(kind, found)| (&*kind.key, &*found.tile))
            .collect();
        let find = |kind: &StepKind| tiles.get(&*kind.key).map(|&t| t.to_owned());
        let blueprint = self.blueprint(class, &refining.plan, &refining.binding, find);
        let distinct = Distinct::of(&blueprint);
        let requests = core.loader.requests(&distinct.specs);
        let at_hand = core.loader.service.at_hand(&requests).into_iter();
        // all were there before; one that is not any more is none to wait for
        let answers: Result<Vec<Answer>, _> = at_hand.map(|found| found.map(Ok)).collect();
        let answers = answers.map_err(|_| nothing("failed", "a kernel is not at hand any more"))?;
        let id = self.next_program;
        self.next_program += 1;
        let own = refining.program.own.clone();
        let made = core
            .loader
            .program_of(
                id,
                Some(class.clone()),
                &blueprint,
                &distinct,
                &answers,
                own,
            )
            .and_then(|program| {
                let program = Arc::new(program);
                self.make_graphs(&program).map(|()| program)
            });
        let program = made.map_err(|e| failed(&e))?;
        Ok((program, distinct.specs.len()))
    }

    /// The program with the winners serves: what was found out is true.
    pub(in crate::director) fn refinement_serves(&mut self, class: &ClassId) {
        if let Some(found) = self.unproven.remove(class) {
            self.remember(found);
        }
    }

    /// The program with the winners failed on live data: its tiles are not tried again, and the model's stay.
    pub(in crate::director) fn refinement_fails(
        &mut self,
        class: &ClassId,
        tier: Tier,
        reason: String,
    ) {
        self.core.log.push(EventKind::Reject {
            class: class.to_string(),
            reason,
            tier: tier.number(),
        });
        let back = |(kind, found): Found| {
            let kept = KnownTile {
                tile: found.model.clone(),
                us: found.model_us,
                ..found
            };
            (kind, kept)
        };
        if let Some(found) = self.unproven.remove(class) {
            self.remember(found.into_iter().map(back).collect());
        }
    }

    fn remember(&self, found: Vec<Found>) {
        for (kind, found) in found {
            self.core.tiles.learn(&kind, found);
        }
    }

    /// A class leaves, or with `None` the session ends: calls off what is being found out about it.
    pub(in crate::director) fn leave_refining(
        &mut self,
        class: Option<&ClassId>,
        reason: &'static str,
    ) {
        if let Some(class) = class {
            self.unproven.remove(class);
        }
        let of = |r: &mut Refining| class.is_none_or(|class| r.class == *class);
        let Some(refining) = self.refining.take_if(of) else {
            return;
        };
        for ticket in &refining.tickets {
            ticket.cancel();
        }
        if refining.missing > 0 {
            self.core.log.push(EventKind::Cancel {
                class: refining.class.to_string(),
                kernels: refining.missing,
                reason,
                tier: refining.program.tier_number(),
            });
        }
        self.give_up(refining, reason, "the class or the session left");
    }

    pub(super) fn give_up(
        &mut self,
        refining: Refining,
        reason: &'static str,
        detail: impl Into<String>,
    ) {
        let (class, micros) = (refining.class.clone(), compile_us(&refining));
        self.tell_of_refined(&class, Some(&refining), nothing(reason, detail));
        // what was timed so far is true all the same, unless it has to prove itself
        if !self.core.verify_swap {
            self.remember(refining.found);
        }
        self.refined(&class, micros);
    }

    pub(super) fn refined(&mut self, class: &ClassId, micros: u64) {
        let class = class.clone();
        self.event(What::Refined { class, micros }, None);
    }

    pub(super) fn tell_of_refined(
        &self,
        class: &ClassId,
        refining: Option<&Refining>,
        (reason, detail): Nothing,
    ) {
        let of = |f: &dyn Fn(&Refining) -> u64| refining.map_or(0, f);
        let won = |r: &Refining| r.found.iter().filter(|f| f.1.tile != f.1.model).count();
        self.core.log.push(EventKind::Refined {
            class: class.to_string(),
            shape: refining.map_or(String::new(), |r| r.shape.to_string()),
            reason,
            detail,
            timed: of(&|r| r.timed as u64),
            won: of(&|r| won(r) as u64),
            saves_us: refining.map_or(0.0, |r| r.saves_us),
            device_us: of(&|r| r.device_us as u64),
            micros: of(&|r| r.since.elapsed().as_micros() as u64),
        });
    }
}

/// What the compiles of a refinement took, in microseconds of their threads.
fn compile_us(refining: &Refining) -> u64 {
    let answers = refining.answers.iter().flatten();
    answers
        .filter_map(|a| a.as_ref().ok())
        .map(|r| r.micros)
        .sum()
}
