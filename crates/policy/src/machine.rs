//! [`Machine`]: the state machine behind every preset.

use std::collections::BTreeMap;

use crate::preset::{Axes, Queue, Trigger};
use crate::{Action, ClassId, ClassMap, Event, Policy, Reason, Signature, What};

/// Classes remembered without a program. A process that meets more of them starts to count the longest unseen ones
/// anew, and tries the longest unseen failed ones again.
const MAX_IDLE: usize = 4096;

/// Where a class stands; see the crate's diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassState {
    /// Not seen often enough.
    Counting,
    /// Wanted, and waiting for a place among the compiles.
    Waiting,
    /// Asked for.
    Compiling,
    /// Compiled; the runtime was told to put it in service.
    Installing,
    /// In service.
    Installed,
    /// The runtime was told to drop it.
    Evicting,
    /// Did not compile, or the device did not take it.
    Failed,
}

impl ClassState {
    /// Whether the class counts against the limit of programs.
    fn is_resident(self) -> bool {
        matches!(self, ClassState::Installing | ClassState::Installed)
    }

    /// Whether forgetting the class costs nothing but its count.
    fn is_idle(self) -> bool {
        matches!(self, ClassState::Counting | ClassState::Failed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    state: ClassState,
    /// The shape to tune for: the first one seen, or the one to tune for at load.
    shape: Signature,
    /// Runs of the class that the policy was told of.
    sightings: u64,
    /// Time of the last sight, then number of the event: later is larger even when the clock stands still.
    seen: (u64, u64),
    /// Number of the last event at which it was not yet asked for.
    since: u64,
}

/// A strategy at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    name: String,
    axes: Axes,
    classes: BTreeMap<ClassId, Class>,
    events: u64,
    /// Compile time taken so far, microseconds.
    spent_us: u64,
}

impl Machine {
    /// A strategy in its first state. `name` is what [`Policy::name`] answers.
    #[must_use]
    pub fn new(name: impl Into<String>, axes: Axes) -> Self {
        Machine {
            name: name.into(),
            axes,
            classes: BTreeMap::new(),
            events: 0,
            spent_us: 0,
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

    fn set(&mut self, class: &ClassId, state: ClassState) {
        if let Some(known) = self.classes.get_mut(class) {
            known.state = state;
        }
    }

    fn over_budget(&self) -> bool {
        let limit = self.axes.limits.max_compile_us;
        limit.is_some_and(|limit| self.spent_us >= limit)
    }

    /// Asks for a class that has not been asked for, now or when there is room.
    fn want(&mut self, class: &ClassId, seen: (u64, u64)) -> Vec<Action> {
        if self.over_budget() {
            return vec![Action::Nothing(Reason::Budget)];
        }
        let limits = self.axes.limits;
        let compiling = self.count(|state| state == ClassState::Compiling);
        if self.axes.blocking || compiling < limits.max_compiling.get() {
            return vec![self.specialise(class)];
        }
        if self.count(|state| state == ClassState::Waiting) >= limits.max_waiting {
            return vec![Action::Nothing(Reason::Backlog)];
        }
        self.set(class, ClassState::Waiting);
        let actions = self.next(seen.0);
        if actions.is_empty() {
            return vec![Action::Nothing(Reason::Waiting)];
        }
        actions
    }

    fn specialise(&mut self, class: &ClassId) -> Action {
        let Some(known) = self.classes.get_mut(class) else {
            return Action::Nothing(Reason::UnknownClass);
        };
        known.state = ClassState::Compiling;
        Action::Specialise {
            class: class.clone(),
            shape: known.shape.clone(),
            priority: self.axes.priority,
            blocking: self.axes.blocking,
        }
    }

    /// Gives up compiles of classes that nobody has seen for too long.
    fn cancel_stale(&mut self, now_us: u64) -> Vec<Action> {
        let Some(stale_us) = self.axes.stale_us else {
            return Vec::new();
        };
        let stale = |class: &Class| now_us.saturating_sub(class.seen.0) > stale_us;
        let mut actions = Vec::new();
        for (id, class) in &mut self.classes {
            if stale(class) && class.state == ClassState::Compiling {
                actions.push(Action::Cancel { class: id.clone() });
            }
            if stale(class) && matches!(class.state, ClassState::Compiling | ClassState::Waiting) {
                (class.state, class.sightings) = (ClassState::Counting, 0);
            }
        }
        actions
    }

    /// Fills the places for compiles with classes that wait, in the order of the queue. Stale ones make room first.
    fn next(&mut self, now_us: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.count(|state| state == ClassState::Waiting) > 0 {
            actions = self.cancel_stale(now_us);
        }
        let limit = self.axes.limits.max_compiling.get();
        while self.count(|state| state == ClassState::Compiling) < limit && !self.over_budget() {
            let waiting = self
                .classes
                .iter()
                .filter(|(_, class)| class.state == ClassState::Waiting);
            // the event's number breaks ties, so there is one order
            let first = match self.axes.queue {
                Queue::FirstCome => waiting.min_by_key(|(_, class)| class.since),
                Queue::MostSeen => waiting.max_by_key(|(_, class)| (class.sightings, class.seen)),
            };
            let Some(class) = first.map(|(id, _)| id.clone()) else {
                break;
            };
            actions.push(self.specialise(&class));
        }
        actions
    }

    fn observed(
        &mut self,
        class: &ClassId,
        shape: &Signature,
        seen: (u64, u64),
        at_load: bool,
    ) -> Vec<Action> {
        let nothing = |reason| vec![Action::Nothing(reason)];
        if self.class_of(shape) != *class {
            return nothing(Reason::UnknownClass);
        }
        let known = self.classes.entry(class.clone()).or_insert_with(|| Class {
            state: ClassState::Counting,
            shape: self.axes.map.shape_for(shape).clone(),
            sightings: 0,
            seen,
            since: seen.1,
        });
        known.sightings += 1;
        known.seen = known.seen.max(seen);
        if known.state == ClassState::Counting {
            known.since = seen.1;
        }
        let (state, sightings) = (known.state, known.sightings);
        match state {
            ClassState::Counting => {
                let actions = match self.axes.trigger {
                    Trigger::Never => nothing(Reason::Never),
                    Trigger::Sightings(least) if !at_load && sightings < u64::from(least) => {
                        nothing(Reason::Counting)
                    }
                    // What loading asked for and the runtime dropped since comes back when it is needed.
                    Trigger::Load | Trigger::Sightings(_) => self.want(class, seen),
                };
                self.forget_idle();
                actions
            }
            ClassState::Waiting => nothing(Reason::Waiting),
            ClassState::Compiling if self.axes.blocking => vec![Action::Wait {
                class: class.clone(),
            }],
            ClassState::Compiling => nothing(Reason::Compiling),
            ClassState::Installing => nothing(Reason::Installing),
            ClassState::Installed => nothing(Reason::Installed),
            ClassState::Evicting => nothing(Reason::Evicting),
            ClassState::Failed => nothing(Reason::FailedBefore),
        }
    }

    /// Puts a compiled class in service, after making room for it.
    fn compiled(&mut self, class: &ClassId, ok: bool, micros: u64, now_us: u64) -> Vec<Action> {
        if self.classes.get(class).map(|known| known.state) != Some(ClassState::Compiling) {
            return vec![Action::Nothing(Reason::UnknownClass)];
        }
        self.spent_us = self.spent_us.saturating_add(micros);
        let mut actions = Vec::new();
        if ok {
            self.set(class, ClassState::Installing);
            while self.count(ClassState::is_resident) > self.axes.limits.max_variants.get() {
                let Some(oldest) =
                    self.least_recent(|other, state| other != class && state.is_resident())
                else {
                    break;
                };
                self.set(&oldest, ClassState::Evicting);
                actions.push(Action::Evict { class: oldest });
            }
            actions.push(Action::Install {
                class: class.clone(),
            });
        } else {
            self.set(class, ClassState::Failed);
            self.forget_idle();
            actions.push(Action::Nothing(Reason::CompileFailed));
        }
        actions.extend(self.next(now_us));
        actions
    }

    fn forget_idle(&mut self) {
        while self.count(ClassState::is_idle) > MAX_IDLE {
            match self.least_recent(|_, state| state.is_idle()) {
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

    /// Moves a class that is in one of some states to another.
    fn follow(
        &mut self,
        class: &ClassId,
        from: &[ClassState],
        to: ClassState,
        ok: Reason,
    ) -> Reason {
        match self.classes.get_mut(class) {
            Some(known) if from.contains(&known.state) => {
                known.state = to;
                ok
            }
            // Told to leave before it arrived: the eviction stands.
            Some(known) if known.state == ClassState::Evicting => Reason::Evicting,
            _ => Reason::UnknownClass,
        }
    }
}

impl Policy for Machine {
    fn name(&self) -> &str {
        &self.name
    }

    fn specialises(&self) -> bool {
        self.axes.trigger != Trigger::Never
    }

    fn may_block(&self) -> bool {
        self.axes.blocking && matches!(self.axes.trigger, Trigger::Sightings(_))
    }

    fn class_of(&self, signature: &Signature) -> ClassId {
        self.axes.map.class_of(signature)
    }

    fn on_event(&mut self, event: &Event) -> Vec<Action> {
        self.events += 1;
        let seen = (event.now_us, self.events);
        let installing = &[ClassState::Installing];
        match &event.what {
            What::Loaded => match (self.axes.trigger, &self.axes.map) {
                (Trigger::Load, ClassMap::Single { opt }) => {
                    let (class, opt) = (self.class_of(opt), opt.clone());
                    self.observed(&class, &opt, seen, true)
                }
                (Trigger::Never, _) => vec![Action::Nothing(Reason::Never)],
                _ => vec![Action::Nothing(Reason::NotATrigger)],
            },
            What::Wished { class, signature } => self.observed(class, signature, seen, true),
            What::Observed {
                class, signature, ..
            } => self.observed(class, signature, seen, false),
            What::CompileFinished { class, ok, micros } => {
                self.compiled(class, *ok, *micros, event.now_us)
            }
            What::Installed { class } => {
                let reason = self.follow(class, installing, ClassState::Installed, Reason::Noted);
                vec![Action::Nothing(reason)]
            }
            What::InstallFailed { class } => {
                let reason =
                    self.follow(class, installing, ClassState::Failed, Reason::InstallFailed);
                self.forget_idle();
                vec![Action::Nothing(reason)]
            }
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
            What::Tick => {
                let actions = self.next(event.now_us);
                if actions.is_empty() {
                    return vec![Action::Nothing(Reason::NotATrigger)];
                }
                actions
            }
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
