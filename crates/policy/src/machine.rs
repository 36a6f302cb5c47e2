//! [`Machine`]: the state machine behind every preset.

use std::collections::BTreeMap;

use crate::preset::{Axes, Trigger};
use crate::{Action, ClassId, Event, Policy, Reason, Signature, What};

/// Failed classes remembered. A process that meets more of them tries the longest unseen ones again.
const MAX_FAILED: usize = 1024;

/// Where a class stands; see the crate's diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassState {
    /// Asked for.
    Compiling,
    /// Compiled; the runtime was told to put it in service.
    Installing,
    /// In service.
    Installed,
    /// The runtime was told to drop it.
    Evicting,
    /// Did not compile.
    Failed,
}

impl ClassState {
    /// Whether the class counts against the limit of programs.
    fn is_resident(self) -> bool {
        matches!(self, ClassState::Installing | ClassState::Installed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class {
    state: ClassState,
    /// Time of the last sight, then number of the event: later is larger even when the clock stands still.
    seen: (u64, u64),
}

/// A strategy at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    name: &'static str,
    axes: Axes,
    classes: BTreeMap<ClassId, Class>,
    events: u64,
}

impl Machine {
    /// A strategy in its first state. `name` is what [`Policy::name`] answers.
    #[must_use]
    pub fn new(name: &'static str, axes: Axes) -> Self {
        Machine {
            name,
            axes,
            classes: BTreeMap::new(),
            events: 0,
        }
    }

    /// The strategy's place on the axes.
    #[must_use]
    pub fn axes(&self) -> &Axes {
        &self.axes
    }

    fn count(&self, wanted: impl Fn(ClassState) -> bool) -> usize {
        self.classes
            .values()
            .filter(|class| wanted(class.state))
            .count()
    }

    /// Asks for a class that is unknown so far.
    fn specialise(&mut self, class: ClassId, seen: (u64, u64)) -> Action {
        let Some(shape) = self.axes.map.shape_of(&class) else {
            return Action::Nothing(Reason::UnknownClass);
        };
        let compiling = self.count(|state| state == ClassState::Compiling);
        if !self.axes.blocking && compiling >= self.axes.limits.max_compiling.get() {
            return Action::Nothing(Reason::Backlog);
        }
        self.classes.insert(
            class.clone(),
            Class {
                state: ClassState::Compiling,
                seen,
            },
        );
        Action::Specialise {
            class,
            shape,
            priority: self.axes.priority,
            blocking: self.axes.blocking,
        }
    }

    fn observed(&mut self, class: &ClassId, seen: (u64, u64)) -> Action {
        if let Some(known) = self.classes.get_mut(class) {
            known.seen = known.seen.max(seen);
            return match known.state {
                ClassState::Compiling if self.axes.blocking => Action::Wait {
                    class: class.clone(),
                },
                ClassState::Compiling => Action::Nothing(Reason::Compiling),
                ClassState::Installing => Action::Nothing(Reason::Installing),
                ClassState::Installed => Action::Nothing(Reason::Installed),
                ClassState::Evicting => Action::Nothing(Reason::Evicting),
                ClassState::Failed => Action::Nothing(Reason::FailedBefore),
            };
        }
        match self.axes.trigger {
            Trigger::Never => Action::Nothing(Reason::Never),
            // What loading asked for and the runtime dropped since comes back when it is needed.
            Trigger::Load | Trigger::FirstSight => self.specialise(class.clone(), seen),
        }
    }

    /// Puts a compiled class in service, after making room for it.
    fn compiled(&mut self, class: &ClassId, ok: bool) -> Vec<Action> {
        match self.classes.get_mut(class) {
            Some(known) if known.state == ClassState::Compiling => {
                known.state = if ok {
                    ClassState::Installing
                } else {
                    ClassState::Failed
                };
            }
            _ => return vec![Action::Nothing(Reason::UnknownClass)],
        }
        if !ok {
            self.forget_old_failures();
            return vec![Action::Nothing(Reason::CompileFailed)];
        }
        let mut actions = Vec::new();
        while self.count(ClassState::is_resident) > self.axes.limits.max_variants.get() {
            let Some(oldest) =
                self.least_recent(|other, state| other != class && state.is_resident())
            else {
                break;
            };
            if let Some(evicted) = self.classes.get_mut(&oldest) {
                evicted.state = ClassState::Evicting;
            }
            actions.push(Action::Evict { class: oldest });
        }
        actions.push(Action::Install {
            class: class.clone(),
        });
        actions
    }

    fn forget_old_failures(&mut self) {
        while self.count(|state| state == ClassState::Failed) > MAX_FAILED {
            match self.least_recent(|_, state| state == ClassState::Failed) {
                Some(oldest) => self.classes.remove(&oldest),
                None => break,
            };
        }
    }

    /// The class seen longest ago among those wanted.
    fn least_recent(&self, wanted: impl Fn(&ClassId, ClassState) -> bool) -> Option<ClassId> {
        let candidates = self
            .classes
            .iter()
            .filter(|(id, class)| wanted(id, class.state));
        candidates
            .min_by_key(|(_, class)| class.seen)
            .map(|(id, _)| id.clone())
    }
}

impl Policy for Machine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn class_of(&self, signature: &Signature) -> ClassId {
        self.axes.map.class_of(signature)
    }

    fn on_event(&mut self, event: &Event) -> Vec<Action> {
        self.events += 1;
        let seen = (event.now_us, self.events);
        match &event.what {
            What::Loaded => {
                let opt = match (self.axes.trigger, &self.axes.map) {
                    (Trigger::Load, crate::ClassMap::Single { opt }) => opt.clone(),
                    (Trigger::Never, _) => return vec![Action::Nothing(Reason::Never)],
                    _ => return vec![Action::Nothing(Reason::NotATrigger)],
                };
                let class = self.class_of(&opt);
                vec![self.observed(&class, seen)]
            }
            What::Observed { class, .. } => vec![self.observed(class, seen)],
            What::CompileFinished { class, ok, .. } => self.compiled(class, *ok),
            What::Installed { class } => vec![Action::Nothing(match self.classes.get_mut(class) {
                Some(known) if known.state == ClassState::Installing => {
                    known.state = ClassState::Installed;
                    Reason::Noted
                }
                // Told to leave before it arrived: the eviction stands.
                Some(known) if known.state == ClassState::Evicting => Reason::Evicting,
                _ => Reason::UnknownClass,
            })],
            What::InstallFailed { class } => match self.classes.get_mut(class) {
                Some(known) if known.state == ClassState::Installing => {
                    known.state = ClassState::Failed;
                    self.forget_old_failures();
                    vec![Action::Nothing(Reason::InstallFailed)]
                }
                _ => vec![Action::Nothing(Reason::UnknownClass)],
            },
            What::Evicted { class } => {
                let gone = self.classes.get(class).is_some_and(|known| {
                    known.state.is_resident() || known.state == ClassState::Evicting
                });
                if gone {
                    self.classes.remove(class);
                }
                vec![Action::Nothing(if gone {
                    Reason::Noted
                } else {
                    Reason::UnknownClass
                })]
            }
            What::Tick => vec![Action::Nothing(Reason::NotATrigger)],
        }
    }

    fn classes(&self) -> Vec<(ClassId, ClassState)> {
        self.classes
            .iter()
            .map(|(id, class)| (id.clone(), class.state))
            .collect()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
