//! What earlier sessions knew, at the beginning of one; and what this one found out, for the next.
//!
//! All shapes whose kernels are at hand are wished for first. Then the policy is told what was known of each, which may
//! bring second tiers: they are planned beside the path while the session begins with its first ones.

use std::time::Instant;

use bespoke_policy::{ClassId, ClassState, What};

use super::Director;
use crate::event::EventKind;
use crate::kernels::Draft;
use crate::lessons::{PROGRAM, Second, ShapeCount};

/// Shapes of earlier sessions that a session begins with, at most.
const RECALLED: usize = 16;

impl Director {
    /// Asks for the programs of shapes that earlier sessions saw and whose kernels are all there.
    pub(super) fn recall(&mut self) {
        let core = self.core.clone();
        let Some(lessons) = self.lessons.as_ref().filter(|_| self.policy.specialises()) else {
            return;
        };
        let all = lessons.known(&core.loader.service);
        if all.is_empty() {
            return;
        }
        let known = all.len();
        let mut wished = Vec::new();
        // what the strategy asked for already, as `static` does, it need not be asked
        let mut classes: Vec<ClassId> = self.policy.classes().into_iter().map(|c| c.0).collect();
        for shape in all.into_iter().take(RECALLED) {
            let signature = shape.signature();
            let class = self.policy.class_of(&signature);
            // a model that changed since may not take the shape any more
            let Ok(binding) = core.plan.bind_symbols(shape.dims.clone()) else {
                continue;
            };
            if classes.contains(&class) {
                continue;
            }
            let draft = Draft::of(&core, &class, &binding);
            if core.loader.service.has_all(&draft.requests) {
                self.draft = Some((class.clone(), signature.clone(), draft));
                self.event(
                    What::Wished {
                        class: class.clone(),
                        signature,
                    },
                    None,
                );
                self.draft = None;
                wished.push((class.clone(), shape));
            }
            classes.push(class);
        }
        let (wished, second_tiers) = (wished.len(), self.recall_seconds(wished));
        core.log.push(EventKind::Recall {
            known,
            wished,
            second_tiers,
        });
    }

    /// Tells the policy what is known of the classes that were wished for; how many second tiers it asks for.
    fn recall_seconds(&mut self, wished: Vec<(ClassId, ShapeCount)>) -> usize {
        let plan = &self.core.plan;
        // where there is no second tier, or nothing to fix, there is nothing to say
        if self.core.graph.is_none() || self.core.bit_stable || plan.symbols.is_empty() {
            return 0;
        }
        for (class, shape) in wished {
            // a plan of its own is for one shape
            if !matches!(class, ClassId::Exact(_)) {
                continue;
            }
            let second = shape.second.as_ref().and_then(|second| match second {
                Second::Serves => Some(true),
                // another version may plan better
                Second::SameKernels(version) => (version == PROGRAM).then_some(false),
            });
            let runs = shape.runs;
            let recalled = What::Recalled {
                class,
                runs,
                second,
            };
            self.event(recalled, None);
        }
        let states = self.policy.classes().into_iter().map(|(_, state)| state);
        let second = |state: &ClassState| {
            matches!(
                state,
                ClassState::SecondWaiting
                    | ClassState::SecondCompiling
                    | ClassState::SecondInstalling
                    | ClassState::SecondInstalled
            )
        };
        states.filter(second).count()
    }

    /// Remembers what came of a class's second tier.
    pub(super) fn learn_second(&mut self, class: &ClassId, second: Second) {
        if let (Some(lessons), ClassId::Exact(signature)) = (&mut self.lessons, class) {
            lessons.second(signature, second);
        }
    }

    /// Adds what was learned to what is known about the model.
    pub(super) fn tell(&mut self) {
        self.told = Instant::now();
        let service = &self.core.loader.service;
        let tiles = self
            .lessons
            .as_ref()
            .map(|_| self.core.tiles.tell(service.cache()));
        let shapes = self.lessons.as_mut().map(|l| l.tell(service).map(drop));
        for told in [shapes, tiles].into_iter().flatten() {
            if let Err(e) = told {
                let reason = e.to_string();
                self.core.log.push(EventKind::LearnFailed { reason });
            }
        }
    }
}
