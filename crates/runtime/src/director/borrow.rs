//! Programs for shapes between others, made of what is there.
//!
//! Where a class fixes every argument of a step, its kernel is the one of the shape in service that the class was made
//! from; where an argument is open, a kernel of another program may happen to assume no more than the class knows. Such
//! kernels are taken from memory or from the cache, the generic one serves every other step, and nothing is compiled. The
//! program's steps are the session's, so its graph is that of another one with other kernels in its nodes.
//!
//! Every kernel was checked in the program that it was made for, if swaps are to be verified, or is generic: what is
//! borrowed stands no trial.

use std::sync::Arc;
use std::time::Instant;

use bespoke_policy::{ClassId, Signature};

use super::Director;
use crate::error::Error;
use crate::event::EventKind;
use crate::kernels::Draft;
use crate::program::Program;

impl Director {
    /// Puts a program of a class in service for which nothing has to be compiled.
    pub(super) fn borrow(&mut self, class: &ClassId, shape: &Signature) {
        let start = Instant::now();
        let made = self.assemble(class, shape);
        let (specialized, generic) = match &made {
            Ok(Some(program)) => (program.specialized(), program.generic),
            Ok(None) => (0, self.core.plan.steps.len()),
            Err(e) => {
                self.core.log.push(EventKind::Reject {
                    class: class.to_string(),
                    reason: e.to_string(),
                    tier: 0,
                });
                return;
            }
        };
        if let Ok(Some(program)) = made {
            self.leaving.extend(self.core.put_program(class, program));
        }
        self.core.log.push(EventKind::Borrow {
            class: class.to_string(),
            specialized,
            generic,
            micros: start.elapsed().as_micros() as u64,
        });
    }

    /// A program of what is there, with its graphs made; `None` if that is nothing but generic kernels.
    fn assemble(
        &mut self,
        class: &ClassId,
        shape: &Signature,
    ) -> Result<Option<Arc<Program>>, Error> {
        let core = self.core.clone();
        let binding = core.plan.bind_symbols(shape.dims().to_vec())?;
        let draft = Draft::of(&core, class, &binding);
        let there = core.loader.at_hand(&draft);
        if there.iter().all(Option::is_none) {
            return Ok(None);
        }
        let generic = core.generic();
        let steps = draft.distinct.of_step.iter().zip(&draft.blueprint.configs);
        let kernels: Vec<_> = steps
            .zip(&generic.kernels)
            .map(|((&i, &config), generic)| match &there[i] {
                Some(kernel) => (kernel.clone(), config),
                None => generic.clone(),
            })
            .collect();
        let of_step = draft.distinct.of_step.iter();
        let lacking = of_step.filter(|&&i| there[i].is_none()).count();
        let program = Arc::new(Program {
            id: self.next_program,
            class: Some(class.clone()),
            kernels,
            generic: lacking,
            own: None,
        });
        self.next_program += 1;
        self.make_graphs(&program)?;
        Ok(Some(program))
    }
}
