//! Refinement: when the tiles of a class's kernels are worth being timed.
//!
//! Tiles are chosen by a cost model when a class is first asked for, and that is enough to serve it. A class whose best
//! tier has been in service for so many runs more ([`Axes::refine`](crate::Axes::refine)) is worth device time as well:
//! the runtime then compiles tiles that the model cannot tell from its choice and times them. That happens once for each
//! class, after the second tier where there is one, for one class at a time, and never while the strategy's compile time
//! is used up. It has no state among [`ClassState`]s: the class is in service all the time, and what
//! comes of it takes the place of the program that it has.

use super::Machine;
use crate::{Action, ClassId, ClassState, Reason};

/// Priority of compiles for it: after all that a class lacks its first or its second tier for.
const PRIORITY: i64 = -2;

/// Where a class stands on the way to being refined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Runs since its present tier is in service.
    runs: u64,
    /// Whether it was asked for.
    asked: bool,
}

impl Progress {
    /// A tier came into service.
    pub(super) fn installed(&mut self) {
        self.runs = 0;
    }

    /// The program in service ran.
    pub(super) fn ran(&mut self) {
        self.runs += 1;
    }
}

impl Machine {
    /// What to do about a class in service that was seen: have it refined if that is due, nothing for this reason
    /// otherwise.
    pub(super) fn refine_or(&mut self, class: &ClassId, wished: bool, reason: Reason) -> Action {
        let idle = self.refining.is_none() && !self.over_budget();
        let (refine, second) = (self.axes.refine, self.axes.second_tier.is_some());
        let Some(known) = self.classes.get_mut(class) else {
            return Action::Nothing(Reason::UnknownClass);
        };
        let last = known.state == ClassState::SecondInstalled || !second || known.one_tier;
        let steady = refine.is_some_and(|least| wished || known.refine.runs >= u64::from(least));
        if !(idle && last && steady) || known.refine.asked {
            return Action::Nothing(reason);
        }
        known.refine.asked = true;
        self.refining = Some(class.clone());
        Action::Refine {
            class: class.clone(),
            shape: known.shape.clone(),
            priority: PRIORITY,
        }
    }

    /// A refinement is over, whatever came of it.
    pub(super) fn refined(&mut self, class: &ClassId, micros: u64) -> Reason {
        self.spent_us = self.spent_us.saturating_add(micros);
        match self.refining.take_if(|refining| refining == class) {
            Some(_) => Reason::Noted,
            None => Reason::UnknownClass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::{Axes, Limits, Queue, Trigger};
    use crate::{ClassMap, Event, Policy, Signature, Tier, What};

    fn machine(second_tier: Option<u32>, refine: Option<u32>) -> Machine {
        let axes = Axes {
            map: ClassMap::Exact,
            trigger: Trigger::Sightings(1),
            between: false,
            second_tier,
            refine,
            blocking: false,
            queue: Queue::FirstCome,
            stale_us: None,
            priority: 0,
            limits: Limits::default(),
        };
        Machine::new("test", axes)
    }

    fn tell(m: &mut Machine, what: What) -> Vec<Action> {
        m.on_event(&Event { now_us: 0, what })
    }

    fn see(m: &mut Machine, w: i64) -> Vec<Action> {
        let signature = Signature::new(&[w]);
        let class = m.class_of(&signature);
        let what = What::Observed {
            class,
            signature,
            run: 0,
            generic: false,
        };
        tell(m, what)
    }

    fn serve(m: &mut Machine, w: i64, tier: Tier) {
        let class = m.class_of(&Signature::new(&[w]));
        let what = What::CompileFinished {
            class: class.clone(),
            tier,
            ok: true,
            micros: 10,
        };
        tell(m, what);
        tell(m, What::Installed { class, tier });
    }

    /// Sights until a class is asked to be refined, if that is within ten.
    fn until_refined(m: &mut Machine, w: i64) -> Option<usize> {
        let asked = |actions: &[Action]| matches!(actions, [Action::Refine { .. }]);
        (1..=10).find(|_| asked(&see(m, w)))
    }

    #[test]
    fn a_class_that_stays_is_refined_once() {
        let mut m = machine(None, Some(3));
        see(&mut m, 5);
        serve(&mut m, 5, Tier::First);
        assert_eq!(until_refined(&mut m, 5), Some(3));
        assert_eq!(until_refined(&mut m, 5), None);
        let class = m.class_of(&Signature::new(&[5]));
        let over = What::Refined { class, micros: 7 };
        assert_eq!(tell(&mut m, over.clone()), [Action::Nothing(Reason::Noted)]);
        assert_eq!(
            tell(&mut m, over),
            [Action::Nothing(Reason::UnknownClass)],
            "it was over"
        );
        assert_eq!(until_refined(&mut m, 5), None);
    }

    #[test]
    fn the_second_tier_comes_first() {
        let mut m = machine(Some(2), Some(3));
        see(&mut m, 5);
        serve(&mut m, 5, Tier::First);
        assert_eq!(until_refined(&mut m, 5), None, "it is being planned anew");
        serve(&mut m, 5, Tier::Second);
        assert_eq!(
            until_refined(&mut m, 5),
            Some(3),
            "of the second tier's runs"
        );

        let mut m = machine(Some(2), Some(3));
        see(&mut m, 5);
        serve(&mut m, 5, Tier::First);
        (0..4).for_each(|_| drop(see(&mut m, 5)));
        let class = m.class_of(&Signature::new(&[5]));
        tell(&mut m, What::Kept { class });
        assert_eq!(until_refined(&mut m, 5), Some(1), "it has run often enough");
    }

    #[test]
    fn one_class_at_a_time_and_a_wish_counts_as_often_enough() {
        let mut m = machine(None, Some(3));
        for w in [5, 6] {
            see(&mut m, w);
            serve(&mut m, w, Tier::First);
        }
        let signature = Signature::new(&[5]);
        let class = m.class_of(&signature);
        let wish = What::Wished {
            class: class.clone(),
            signature,
        };
        assert!(matches!(tell(&mut m, wish)[..], [Action::Refine { .. }]));
        assert_eq!(until_refined(&mut m, 6), None, "another is being refined");
        tell(&mut m, What::Evicted { class });
        assert_eq!(until_refined(&mut m, 6), Some(1), "which has left");
    }

    #[test]
    fn never_and_without_time_to_compile_there_is_none() {
        let mut m = machine(None, None);
        see(&mut m, 5);
        serve(&mut m, 5, Tier::First);
        assert_eq!(until_refined(&mut m, 5), None);
        m.set_refine(Some(1));
        m.axes.limits.max_compile_us = Some(10);
        assert_eq!(until_refined(&mut m, 5), None, "10 of 10 are used up");
        m.axes.limits.max_compile_us = None;
        assert_eq!(until_refined(&mut m, 5), Some(1));
    }
}
