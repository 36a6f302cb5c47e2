//! [`Machine`]: the state machine behind every preset.

mod growing;
mod recall;
mod refine;

use std::cmp::Reverse;
use std::collections::BTreeMap;

pub use growing::Growing;

use crate::gain::{Gain, Heat, Learned, Times};
use crate::preset::{Axes, Queue, Trigger};
use crate::{Action, ClassId, ClassMap, ClassState, Event, Policy, Reason, Signature, Tier, What};

/// Priority of the compiles of a second tier: after all that a class still lacks its first for.
const SECOND_PRIORITY: i64 = -1;

/// Classes remembered without a program. A process that meets more of them starts to count the longest unseen ones
/// anew, and tries the longest unseen failed ones again.
const MAX_IDLE: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) state: ClassState,
    /// The shape to tune for: the first one seen, or the one to tune for at load.
    pub(crate) shape: Signature,
    /// Runs of the class that the policy was told of; of a class between others, its shapes.
    pub(crate) sightings: u64,
    /// Time of the last sight, then number of the event: later is larger even when the clock stands still.
    pub(crate) seen: (u64, u64),
    /// Number of the last event at which what it waits for was not yet asked for.
    pub(crate) since: u64,
    /// Runs since the program of its first tier is in service.
    served: u64,
    /// Whether it is known that there will be no second tier.
    one_tier: bool,
    /// Whether its second tier is due by what earlier sessions knew, which is no reason to compile.
    recalled: bool,
    /// Whether it is a class of shapes between others, which no shape has for its own.
    pub(crate) between: bool,
    /// Whether its program was put together of what is there, if it is such a class.
    pub(crate) borrowed: bool,
    refine: refine::Progress,
    pub(crate) heat: Heat,
    times: Times,
}

impl Class {
    /// A class that was not seen yet.
    fn new(shape: &Signature, seen: (u64, u64)) -> Class {
        Class {
            state: ClassState::Counting,
            shape: shape.clone(),
            sightings: 0,
            seen,
            since: seen.1,
            served: 0,
            one_tier: false,
            recalled: false,
            between: false,
            borrowed: false,
            refine: refine::Progress::default(),
            heat: Heat::default(),
            times: Times::default(),
        }
    }

    /// A class between others that its first shape asks for, borrowed or not.
    pub(crate) fn between(shape: &Signature, seen: (u64, u64), borrowed: bool) -> Class {
        Class {
            sightings: 1,
            between: true,
            borrowed,
            ..Class::new(shape, seen)
        }
    }
}

/// A strategy at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    name: String,
    pub(crate) axes: Axes,
    pub(crate) classes: BTreeMap<ClassId, Class>,
    events: u64,
    /// Compile time taken so far, microseconds.
    spent_us: u64,
    /// The class that is being refined.
    refining: Option<ClassId>,
    /// Extents that grow.
    growing: Vec<Growing>,
    learned: Learned,
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
            refining: None,
            growing: Vec::new(),
            learned: Learned::default(),
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

    pub(crate) fn set(&mut self, class: &ClassId, state: ClassState) {
        if let Some(known) = self.classes.get_mut(class) {
            known.state = state;
        }
    }

    fn over_budget(&self) -> bool {
        let limit = self.axes.limits.max_compile_us;
        limit.is_some_and(|limit| self.spent_us >= limit)
    }

    /// Asks for a tier of a class that has not been asked for, now or when there is room. No run waits for a second tier.
    pub(crate) fn want(&mut self, class: &ClassId, tier: Tier, seen: (u64, u64)) -> Vec<Action> {
        if self.over_budget() {
            return vec![Action::Nothing(Reason::Budget)];
        }
        let limits = self.axes.limits;
        let compiling = self.count(|state| state.compiling().is_some());
        let blocking = self.axes.blocking && tier == Tier::First;
        if blocking || compiling < limits.max_compiling.get() {
            return vec![self.specialise(class, tier, seen.0)];
        }
        if self.count(|state| state.waiting().is_some()) >= limits.max_waiting {
            return vec![Action::Nothing(Reason::Backlog)];
        }
        self.set(class, ClassState::wait(tier));
        let actions = self.next(seen.0);
        if actions.is_empty() {
            let reason = match tier {
                Tier::First => Reason::Waiting,
                Tier::Second => Reason::SecondWaiting,
            };
            return vec![Action::Nothing(reason)];
        }
        actions
    }

    fn specialise(&mut self, class: &ClassId, tier: Tier, now_us: u64) -> Action {
        let gain = self.gain(class, tier, now_us);
        let Some(known) = self.classes.get_mut(class) else {
            return Action::Nothing(Reason::UnknownClass);
        };
        known.state = ClassState::compile(tier);
        Action::Specialise {
            class: class.clone(),
            tier,
            shape: known.shape.clone(),
            priority: match tier {
                Tier::First => self.axes.priority,
                Tier::Second => SECOND_PRIORITY,
            },
            blocking: self.axes.blocking && tier == Tier::First,
            at_hand: known.recalled && tier == Tier::Second,
            gain,
        }
    }

    /// What a class's tier is expected to bring, where that decides the order.
    fn gain(&self, class: &ClassId, tier: Tier, now_us: u64) -> Option<Gain> {
        let known = self.classes.get(class)?;
        let asked = self.axes.queue == Queue::MostGain;
        let gain = || self.learned.gain(&known.heat, &known.times, tier, now_us);
        asked.then(gain)
    }

    /// Gives up compiles of classes that nobody has seen for too long.
    fn cancel_stale(&mut self, now_us: u64) -> Vec<Action> {
        let Some(stale_us) = self.axes.stale_us else {
            return Vec::new();
        };
        let stale = |class: &Class| now_us.saturating_sub(class.seen.0) > stale_us;
        let mut actions = Vec::new();
        for (id, class) in &mut self.classes {
            if !stale(class) {
                continue;
            }
            let compiling = class.state.compiling();
            if compiling.is_some() {
                actions.push(Action::Cancel { class: id.clone() });
            }
            match compiling.or(class.state.waiting()) {
                Some(Tier::First) => (class.state, class.sightings) = (ClassState::Counting, 0),
                Some(Tier::Second) => (class.state, class.served) = (ClassState::Installed, 0),
                None => {}
            }
        }
        actions
    }

    /// Fills the places for compiles with classes that wait, in the order of the queue. Stale ones make room first.
    fn next(&mut self, now_us: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.count(|state| state.waiting().is_some()) > 0 {
            actions = self.cancel_stale(now_us);
        }
        let limit = self.axes.limits.max_compiling.get();
        while self.count(|state| state.compiling().is_some()) < limit && !self.over_budget() {
            let Some((class, tier)) = self.first_waiting(now_us) else {
                break;
            };
            actions.push(self.specialise(&class, tier, now_us));
        }
        actions
    }

    /// The class that compiles next, of those that wait.
    fn first_waiting(&self, now_us: u64) -> Option<(ClassId, Tier)> {
        let waiting = self.classes.iter().filter_map(|(id, class)| {
            let tier = class.state.waiting()?;
            Some((id, class, tier))
        });
        // a class without any program of its own comes before one that would get a better one, unless the gain says
        // otherwise; the event's number breaks ties, so there is one order
        let first = match self.axes.queue {
            Queue::FirstCome => waiting.min_by_key(|(_, class, tier)| (*tier, class.since)),
            Queue::MostSeen => {
                waiting.max_by_key(|(_, class, tier)| (Reverse(*tier), class.sightings, class.seen))
            }
            Queue::MostGain => waiting.max_by_key(|(id, class, tier)| {
                let score = self.gain(id, *tier, now_us).map(|gain| gain.score);
                (score, Reverse(*tier), class.sightings, class.seen)
            }),
        };
        first.map(|(id, _, tier)| (id.clone(), tier))
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
        let passer_by = self.is_passer_by(shape);
        let known = self
            .classes
            .entry(class.clone())
            .or_insert_with(|| Class::new(self.axes.map.shape_for(shape), seen));
        known.sightings += 1;
        known.seen = known.seen.max(seen);
        known.heat.see(seen.0);
        if matches!(known.state, ClassState::Counting | ClassState::Installed) {
            known.since = seen.1;
        }
        // a wish is no run
        if known.state == ClassState::Installed && !at_load {
            known.served += 1;
        }
        if known.state.serves() && !at_load {
            known.refine.ran();
        }
        let (state, sightings) = (known.state, known.sightings);
        let second = self.axes.second_tier.filter(|_| !known.one_tier);
        let second = second.is_some_and(|least| at_load || known.served >= u64::from(least));
        // what it is worth by itself is worth a compile
        known.recalled &= !second;
        let second = second || known.recalled;
        match state {
            ClassState::Counting => {
                let actions = match self.axes.trigger {
                    Trigger::Never => nothing(Reason::Never),
                    Trigger::Sightings(least) if !at_load && sightings < u64::from(least) => {
                        nothing(Reason::Counting)
                    }
                    Trigger::Sightings(_) if !at_load && passer_by && sightings == 1 => {
                        nothing(Reason::PasserBy)
                    }
                    // What loading asked for and the runtime dropped since comes back when it is needed.
                    Trigger::Load | Trigger::Sightings(_) => self.want(class, Tier::First, seen),
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
            ClassState::Installed if second => self.want(class, Tier::Second, seen),
            ClassState::Installed => vec![self.refine_or(class, at_load, Reason::Installed)],
            ClassState::SecondWaiting => nothing(Reason::SecondWaiting),
            ClassState::SecondCompiling => nothing(Reason::SecondCompiling),
            ClassState::SecondInstalling => nothing(Reason::SecondInstalling),
            ClassState::SecondInstalled => {
                vec![self.refine_or(class, at_load, Reason::SecondInstalled)]
            }
            ClassState::Evicting => nothing(Reason::Evicting),
            ClassState::Failed => nothing(Reason::FailedBefore),
        }
    }

    /// Puts a compiled class in service, after making room for it; a second tier takes the room of the first.
    fn compiled(
        &mut self,
        (class, tier): (&ClassId, Tier),
        ok: bool,
        micros: u64,
        now_us: u64,
    ) -> Vec<Action> {
        let state = self.classes.get(class).map(|known| known.state);
        if state.and_then(ClassState::compiling) != Some(tier) {
            return vec![Action::Nothing(Reason::UnknownClass)];
        }
        self.spent_us = self.spent_us.saturating_add(micros);
        let mut actions = Vec::new();
        if ok {
            self.learned.compiled(tier, micros);
            self.set(class, ClassState::install(tier));
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
                tier,
            });
        } else {
            self.do_without(class, tier);
            actions.push(Action::Nothing(Reason::CompileFailed));
        }
        actions.extend(self.next(now_us));
        actions
    }

    /// A class will not have a tier: it is not asked for again.
    fn do_without(&mut self, class: &ClassId, tier: Tier) {
        self.set(class, ClassState::without(tier));
        if let (Some(known), Tier::Second) = (self.classes.get_mut(class), tier) {
            (known.one_tier, known.recalled) = (true, false);
        }
        self.forget_idle();
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

    /// What came of putting a class's tier in service.
    fn installed(&mut self, class: &ClassId, tier: Tier, ok: bool) -> Reason {
        match self.classes.get_mut(class) {
            Some(known) if known.state == ClassState::install(tier) && ok => {
                known.state = ClassState::serve(tier);
                known.refine.installed();
                if tier == Tier::First {
                    known.served = 0;
                    known.times.forget_specialised();
                }
                Reason::Noted
            }
            Some(known) if known.state == ClassState::install(tier) => {
                self.do_without(class, tier);
                Reason::InstallFailed
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

    fn has_second_tier(&self) -> bool {
        self.axes.second_tier.is_some()
    }

    fn set_refine(&mut self, runs: Option<u32>) {
        self.axes.refine = runs;
    }

    fn set_growing(&mut self, extents: &[Growing]) {
        self.growing = extents.to_vec();
    }

    fn wants_times(&self) -> bool {
        self.axes.queue == Queue::MostGain
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
            } => {
                let wanted = self.observed(class, signature, seen, false);
                // what serves from the next run on comes before what takes compiling
                let mut actions = self.borrow(class, signature, seen);
                actions.extend(wanted);
                actions.extend(self.foresee(class, signature, seen));
                actions
            }
            What::Ran {
                class,
                tier,
                micros,
            } => {
                let reason = match self.classes.get_mut(class) {
                    Some(known) => {
                        self.learned.ran(&mut known.times, *tier, *micros);
                        Reason::Noted
                    }
                    None => Reason::UnknownClass,
                };
                vec![Action::Nothing(reason)]
            }
            What::CompileFinished {
                class,
                tier,
                ok,
                micros,
            } => self.compiled((class, *tier), *ok, *micros, event.now_us),
            What::Kept { class } => {
                let state = self.classes.get(class).map(|known| known.state);
                if state != Some(ClassState::SecondCompiling) {
                    return vec![Action::Nothing(Reason::UnknownClass)];
                }
                self.do_without(class, Tier::Second);
                let mut actions = vec![Action::Nothing(Reason::Kept)];
                actions.extend(self.next(event.now_us));
                actions
            }
            What::Recalled {
                class,
                runs,
                second,
            } => self.recalled(class, *runs, *second, seen),
            What::Postponed { class } => self.postponed(class, event.now_us),
            What::Refined { class, micros } => {
                vec![Action::Nothing(self.refined(class, *micros))]
            }
            What::Installed { class, tier } => {
                vec![Action::Nothing(self.installed(class, *tier, true))]
            }
            What::InstallFailed { class, tier } => {
                vec![Action::Nothing(self.installed(class, *tier, false))]
            }
            What::Evicted { class } => {
                let gone = self.classes.get(class).is_some_and(|known| {
                    let left = known.state.is_resident() || known.state == ClassState::Evicting;
                    // between others it serves before it is compiled
                    left || known.between
                });
                if gone {
                    self.classes.remove(class);
                    self.refining.take_if(|refining| refining == class);
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
