//! Recall: a class begins where earlier sessions left it.
//!
//! The runtime wishes for the shapes that earlier sessions ran, which brings their first tiers, and then says what is known
//! of each ([`What::Recalled`](crate::What::Recalled)). A class that had a second tier, or ran often enough for one, gets it
//! at once, if that takes no compiling: nobody knows yet whether its shape comes again, and what a compile would bring can
//! wait until it does. If it takes one after all ([`What::Postponed`](crate::What::Postponed)), the class keeps its first
//! tier and its runs decide, as if nothing were known. Where a second tier was of no use, none is asked for any more.
//!
//! First tiers come first: what is known is said after all wishes, and a class that still waits for its first tier
//! remembers it until it is seen in service.

use super::Machine;
use crate::{Action, ClassId, ClassState, Reason, Tier};

impl Machine {
    /// What earlier sessions knew of a class: its runs, and whether its second tier was of use.
    pub(super) fn recalled(
        &mut self,
        class: &ClassId,
        runs: u64,
        second: Option<bool>,
        seen: (u64, u64),
    ) -> Vec<Action> {
        let nothing = |reason| vec![Action::Nothing(reason)];
        let Some(known) = self.classes.get_mut(class) else {
            return nothing(Reason::UnknownClass);
        };
        let Some(least) = self.axes.second_tier else {
            return nothing(Reason::Noted);
        };
        if second == Some(false) {
            known.one_tier = true;
            return nothing(Reason::Noted);
        }
        if known.one_tier || (second.is_none() && runs < u64::from(least)) {
            return nothing(Reason::Noted);
        }
        known.recalled = true;
        match known.state {
            ClassState::Installed => {
                known.since = seen.1;
                self.want(class, Tier::Second, seen)
            }
            // it is asked for when the class is seen in service
            _ => nothing(Reason::Noted),
        }
    }

    /// A second tier that was asked for without compiling takes some: the class's runs decide.
    pub(super) fn postponed(&mut self, class: &ClassId, now_us: u64) -> Vec<Action> {
        let known = self.classes.get_mut(class);
        let Some(known) = known.filter(|known| known.state == ClassState::SecondCompiling) else {
            return vec![Action::Nothing(Reason::UnknownClass)];
        };
        known.state = ClassState::Installed;
        known.recalled = false;
        let mut actions = vec![Action::Nothing(Reason::Postponed)];
        actions.extend(self.next(now_us));
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::{Limits, preset};
    use crate::{Event, Policy, Signature, What};

    /// A policy with a clock that moves one microsecond per event.
    struct Script {
        policy: Box<dyn Policy>,
        now_us: u64,
    }

    fn class(dim: i64) -> ClassId {
        ClassId::Exact(Signature::new(&[dim, dim]))
    }

    impl Script {
        fn new(name: &str, max_compiling: usize) -> Script {
            let limits = Limits {
                max_compiling: max_compiling.try_into().unwrap(),
                ..Limits::default()
            };
            let opt = Some(Signature::new(&[64, 64]));
            Script {
                policy: preset(name, opt, limits).unwrap(),
                now_us: 0,
            }
        }

        fn tell(&mut self, what: What) -> Vec<Action> {
            self.now_us += 1;
            self.policy.on_event(&Event {
                now_us: self.now_us,
                what,
            })
        }

        fn see(&mut self, dim: i64) -> Vec<Action> {
            let signature = Signature::new(&[dim, dim]);
            self.tell(What::Observed {
                class: self.policy.class_of(&signature),
                signature,
                run: self.now_us,
                generic: false,
            })
        }

        fn wish(&mut self, dim: i64) -> Vec<Action> {
            let signature = Signature::new(&[dim, dim]);
            self.tell(What::Wished {
                class: self.policy.class_of(&signature),
                signature,
            })
        }

        fn serve(&mut self, dim: i64, tier: Tier) -> Vec<Action> {
            let class = self.policy.class_of(&Signature::new(&[dim, dim]));
            let finished = What::CompileFinished {
                class: class.clone(),
                tier,
                ok: true,
                micros: 0,
            };
            let actions = self.tell(finished);
            self.tell(What::Installed { class, tier });
            actions
        }

        fn recall(&mut self, dim: i64, runs: u64, second: Option<bool>) -> Vec<Action> {
            self.tell(What::Recalled {
                class: self.policy.class_of(&Signature::new(&[dim, dim])),
                runs,
                second,
            })
        }
    }

    fn nothing(reason: Reason) -> Vec<Action> {
        vec![Action::Nothing(reason)]
    }

    /// Asking for a second tier.
    fn ask(dim: i64, at_hand: bool) -> Action {
        Action::Specialise {
            class: class(dim),
            tier: Tier::Second,
            shape: Signature::new(&[dim, dim]),
            priority: -1,
            blocking: false,
            at_hand,
            gain: None,
        }
    }

    /// Sights until something is asked for, if that is within forty.
    fn until_asked(script: &mut Script, dim: i64) -> Option<(usize, Vec<Action>)> {
        let asked = |actions: &[Action]| !matches!(actions, [Action::Nothing(_)]);
        (1..=40).find_map(|n| Some((n, script.see(dim))).filter(|(_, a)| asked(a)))
    }

    #[test]
    fn what_had_a_second_tier_gets_it_at_once() {
        // without it
        let mut s = Script::new("lazy", 4);
        s.wish(7);
        s.serve(7, Tier::First);
        assert_eq!(until_asked(&mut s, 7), Some((32, vec![ask(7, false)])));

        // with it, whether that is known or follows from the runs
        for (runs, second) in [(1, Some(true)), (32, None), (500, None)] {
            let mut s = Script::new("lazy", 4);
            s.wish(7);
            s.serve(7, Tier::First);
            assert_eq!(s.recall(7, runs, second), [ask(7, true)]);
            assert_eq!(s.see(7), nothing(Reason::SecondCompiling));
            s.serve(7, Tier::Second);
            assert_eq!(s.see(7), nothing(Reason::SecondInstalled));
        }

        let mut s = Script::new("lazy", 4);
        s.wish(7);
        s.serve(7, Tier::First);
        assert_eq!(s.recall(7, 31, None), nothing(Reason::Noted));
        assert_eq!(until_asked(&mut s, 7), Some((32, vec![ask(7, false)])));
    }

    #[test]
    fn what_was_of_no_use_is_not_asked_for_again() {
        let mut s = Script::new("lazy", 4);
        s.wish(7);
        s.serve(7, Tier::First);
        assert_eq!(s.recall(7, 500, Some(false)), nothing(Reason::Noted));
        assert_eq!(until_asked(&mut s, 7), None);
        // its first tier is the best there is, and is refined as such
        let refined = (41..=64).find(|_| matches!(s.see(7)[..], [Action::Refine { .. }]));
        assert_eq!(refined, Some(64));
    }

    #[test]
    fn what_takes_compiling_is_left_to_the_runs() {
        let mut s = Script::new("lazy", 4);
        s.wish(7);
        s.serve(7, Tier::First);
        s.recall(7, 500, None);
        (0..3).for_each(|_| drop(s.see(7)));
        let late = What::Postponed { class: class(7) };
        assert_eq!(s.tell(late.clone()), nothing(Reason::Postponed));
        assert_eq!(s.tell(late), nothing(Reason::UnknownClass), "it was over");
        assert_eq!(until_asked(&mut s, 7), Some((32, vec![ask(7, false)])));
    }

    #[test]
    fn a_wish_for_it_may_compile() {
        let mut s = Script::new("lazy", 1);
        s.wish(7);
        s.serve(7, Tier::First);
        s.wish(8);
        assert_eq!(s.recall(7, 500, None), nothing(Reason::SecondWaiting));
        assert_eq!(s.wish(7), nothing(Reason::SecondWaiting));
        let actions = s.serve(8, Tier::First);
        assert!(actions.contains(&ask(7, false)), "{actions:?}");
    }

    #[test]
    fn they_take_turns_and_come_after_first_tiers() {
        let mut s = Script::new("lazy", 1);
        for dim in [7, 8] {
            s.wish(dim);
            s.serve(dim, Tier::First);
        }
        assert_eq!(s.recall(7, 50, Some(true)), [ask(7, true)]);
        assert_eq!(s.recall(8, 40, Some(true)), nothing(Reason::SecondWaiting));
        assert_eq!(s.see(9), nothing(Reason::Waiting));
        let actions = s.serve(7, Tier::Second);
        assert!(
            matches!(&actions[1], Action::Specialise { class: c, tier: Tier::First, .. } if *c == class(9))
        );
        let actions = s.serve(9, Tier::First);
        assert_eq!(actions[1], ask(8, true));
    }

    #[test]
    fn a_class_that_does_not_serve_yet_remembers_it() {
        let mut s = Script::new("lazy", 4);
        s.wish(7);
        assert_eq!(s.recall(7, 50, Some(true)), nothing(Reason::Noted));
        assert_eq!(s.see(7), nothing(Reason::Compiling));
        s.serve(7, Tier::First);
        assert_eq!(s.see(7), [ask(7, true)]);
        // with its program, what was known of it goes
        s.tell(What::Evicted { class: class(7) });
        s.wish(7);
        s.serve(7, Tier::First);
        assert_eq!(s.see(7), nothing(Reason::Installed));
    }

    #[test]
    fn strategies_without_a_second_tier_have_none_by_recall() {
        for name in ["none", "eager", "ranges", "divisible", "static"] {
            let mut s = Script::new(name, 4);
            s.wish(7);
            s.serve(7, Tier::First);
            let actions = s.recall(7, 500, Some(true));
            assert!(matches!(actions[..], [Action::Nothing(_)]), "{name}");
            let asked = until_asked(&mut s, 7);
            assert!(asked.is_none(), "{name}: {asked:?}");
        }
        let mut s = Script::new("lazy", 4);
        assert_eq!(s.recall(7, 500, Some(true)), nothing(Reason::UnknownClass));
    }
}
