//! Scenes for each preset; properties over random event sequences are in a module of their own.

use super::*;
use crate::preset::{Limits, PRESETS, preset};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;

#[path = "machine_properties.rs"]
mod properties;

/// Shapes that have no extent in common, so that no class lies between them: those have tests of their own.
fn shape(dim: i64) -> Signature {
    Signature::new(&[dim, dim])
}

fn class(dim: i64) -> ClassId {
    ClassId::Exact(shape(dim))
}

fn limits(max_variants: usize, max_compiling: usize) -> Limits {
    Limits {
        max_variants: NonZeroUsize::new(max_variants).unwrap(),
        max_compiling: NonZeroUsize::new(max_compiling).unwrap(),
        ..Limits::default()
    }
}

fn make(name: &str, limits: Limits) -> Box<dyn Policy> {
    preset(name, Some(shape(64)), limits).unwrap()
}

/// A policy with a clock that moves one microsecond per event.
struct Script {
    policy: Box<dyn Policy>,
    now_us: u64,
}

impl Script {
    fn new(name: &str, limits: Limits) -> Self {
        Script {
            policy: make(name, limits),
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
        let (class, signature) = (self.policy.class_of(&shape(dim)), shape(dim));
        self.tell(What::Observed {
            class,
            signature,
            run: self.now_us,
            generic: true,
        })
    }

    /// A run ends.
    fn ran(&mut self, dim: i64, tier: Option<Tier>, micros: u64) {
        let class = self.policy.class_of(&shape(dim));
        self.tell(What::Ran {
            class,
            tier,
            micros,
        });
    }

    /// A compile ends.
    fn finish(&mut self, dim: i64, ok: bool) -> Vec<Action> {
        let class = self.policy.class_of(&shape(dim));
        self.tell(What::CompileFinished {
            class,
            tier: Tier::First,
            ok,
            micros: 5,
        })
    }

    /// Sees, compiles and installs a class.
    fn settle(&mut self, dim: i64) -> Vec<Action> {
        let class = self.policy.class_of(&shape(dim));
        self.see(dim);
        let actions = self.tell(What::CompileFinished {
            class: class.clone(),
            tier: Tier::First,
            ok: true,
            micros: 5,
        });
        for action in &actions {
            if let Action::Evict { class } = action {
                self.tell(What::Evicted {
                    class: class.clone(),
                });
            }
        }
        self.tell(What::Installed {
            class,
            tier: Tier::First,
        });
        actions
    }
}

fn nothing(reason: Reason) -> Vec<Action> {
    vec![Action::Nothing(reason)]
}

#[test]
fn lazy_compiles_in_the_background_and_installs_when_ready() {
    let mut script = Script::new("lazy", Limits::default());
    assert_eq!(script.tell(What::Loaded), nothing(Reason::NotATrigger));
    let ask = Action::Specialise {
        class: class(7),
        tier: Tier::First,
        shape: shape(7),
        priority: 0,
        blocking: false,
        at_hand: false,
        gain: None,
    };
    assert_eq!(script.see(7), [ask]);
    assert_eq!(script.see(7), nothing(Reason::Compiling));
    let finished = What::CompileFinished {
        class: class(7),
        tier: Tier::First,
        ok: true,
        micros: 9,
    };
    assert_eq!(
        script.tell(finished),
        [Action::Install {
            class: class(7),
            tier: Tier::First
        }]
    );
    assert_eq!(script.see(7), nothing(Reason::Installing));
    assert_eq!(
        script.tell(What::Installed {
            class: class(7),
            tier: Tier::First
        }),
        nothing(Reason::Noted)
    );
    assert_eq!(script.see(7), nothing(Reason::Installed));
    assert_eq!(script.tell(What::Tick), nothing(Reason::NotATrigger));
}

#[test]
fn eager_waits_for_its_own_compile_and_for_that_of_another_run() {
    let mut script = Script::new("eager", Limits::default());
    let ask = Action::Specialise {
        class: class(7),
        tier: Tier::First,
        shape: shape(7),
        priority: 100,
        blocking: true,
        at_hand: false,
        gain: None,
    };
    assert_eq!(script.see(7), [ask]);
    assert_eq!(script.see(7), [Action::Wait { class: class(7) }]);
}

#[test]
fn static_compiles_once_at_load_for_every_shape() {
    let mut script = Script::new("static", Limits::default());
    let ask = Action::Specialise {
        class: ClassId::Any,
        tier: Tier::First,
        shape: shape(64),
        priority: 100,
        blocking: true,
        at_hand: false,
        gain: None,
    };
    assert_eq!(script.tell(What::Loaded), std::slice::from_ref(&ask));
    let finished = What::CompileFinished {
        class: ClassId::Any,
        tier: Tier::First,
        ok: true,
        micros: 9,
    };
    assert_eq!(
        script.tell(finished),
        [Action::Install {
            class: ClassId::Any,
            tier: Tier::First,
        }]
    );
    script.tell(What::Installed {
        class: ClassId::Any,
        tier: Tier::First,
    });
    for dim in [1, 64, 1000] {
        assert_eq!(script.see(dim), nothing(Reason::Installed));
    }
    // The runtime dropped it for memory: it comes back when it is needed.
    script.tell(What::Evicted {
        class: ClassId::Any,
    });
    assert_eq!(script.see(3), [ask]);
}

#[test]
fn a_failed_class_is_not_tried_again() {
    let mut script = Script::new("lazy", Limits::default());
    script.see(7);
    let failed = What::CompileFinished {
        class: class(7),
        tier: Tier::First,
        ok: false,
        micros: 9,
    };
    assert_eq!(script.tell(failed), nothing(Reason::CompileFailed));
    assert_eq!(script.see(7), nothing(Reason::FailedBefore));
}

#[test]
fn a_class_that_the_device_refuses_is_not_tried_again() {
    let mut script = Script::new("eager", Limits::default());
    script.see(7);
    let compiled = What::CompileFinished {
        class: class(7),
        tier: Tier::First,
        ok: true,
        micros: 9,
    };
    assert_eq!(
        script.tell(compiled),
        [Action::Install {
            class: class(7),
            tier: Tier::First
        }]
    );
    let refused = What::InstallFailed {
        class: class(7),
        tier: Tier::First,
    };
    assert_eq!(script.tell(refused), nothing(Reason::InstallFailed));
    assert_eq!(script.see(7), nothing(Reason::FailedBefore));
}

#[test]
fn the_least_recently_seen_class_leaves() {
    let mut script = Script::new("lazy", limits(2, 64));
    script.settle(1);
    script.settle(2);
    script.see(1);
    assert_eq!(
        script.settle(3),
        [
            Action::Evict { class: class(2) },
            Action::Install {
                class: class(3),
                tier: Tier::First
            }
        ]
    );
    // A class that left is asked for again when it is seen again.
    assert!(matches!(
        script.see(2).as_slice(),
        [Action::Specialise { .. }]
    ));
}

fn specialised(actions: &[Action]) -> Vec<i64> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Specialise { shape, .. } => Some(shape.dims()[1]),
        _ => None,
    });
    asked.collect()
}

#[test]
fn background_compiles_wait_for_a_place_and_awaited_ones_do_not() {
    let mut lazy = Script::new("lazy", limits(8, 2));
    lazy.see(1);
    lazy.see(2);
    assert_eq!(lazy.see(3), nothing(Reason::Waiting));
    assert_eq!(lazy.see(4), nothing(Reason::Waiting));
    assert_eq!(lazy.see(4), nothing(Reason::Waiting));
    assert_eq!(specialised(&lazy.finish(1, true)), [3], "first come");
    assert_eq!(
        specialised(&lazy.finish(2, false)),
        [4],
        "also after a failure"
    );
    assert_eq!(specialised(&lazy.finish(3, true)), [0_i64; 0]);

    let mut full = Script::new(
        "lazy",
        Limits {
            max_waiting: 1,
            ..limits(8, 1)
        },
    );
    full.see(1);
    full.see(2);
    assert_eq!(full.see(3), nothing(Reason::Backlog));

    let mut eager = Script::new("eager", limits(8, 1));
    eager.see(1);
    assert!(matches!(
        eager.see(2).as_slice(),
        [Action::Specialise { blocking: true, .. }]
    ));
}

#[test]
fn hot_waits_for_the_third_sight_and_prefers_what_is_seen_most() {
    let mut hot = Script::new("hot", limits(8, 1));
    assert_eq!(hot.see(1), nothing(Reason::Counting));
    assert_eq!(hot.see(1), nothing(Reason::Counting));
    assert_eq!(specialised(&hot.see(1)), [1]);
    for dim in [2, 3, 2, 3, 2, 3, 3, 2, 2] {
        hot.see(dim);
    }
    assert_eq!(
        specialised(&hot.finish(1, true)),
        [2],
        "five sights against four, and of times nothing is known"
    );
    assert_eq!(specialised(&hot.finish(2, true)), [3]);
}

#[test]
fn what_gains_most_compiles_first() {
    let mut hot = Script::new("hot", limits(8, 1));
    assert!(hot.policy.wants_times());
    for _ in 0..3 {
        hot.see(1);
    }
    // 2 runs twice as often as 3, and takes a tenth of its time
    for dim in [2, 2, 3, 2, 2, 3, 2, 2, 3] {
        hot.see(dim);
        hot.ran(dim, None, if dim == 2 { 1_000 } else { 10_000 });
    }
    let actions = hot.finish(1, true);
    assert_eq!(specialised(&actions), [3]);
    let gain = actions.iter().find_map(|action| match action {
        Action::Specialise { gain, .. } => *gain,
        _ => None,
    });
    // a quarter is saved, as long as no specialised run has told otherwise; the only compile so far took 5 µs
    let gain = gain.expect("the order is by gain");
    assert_eq!((gain.saves_us, gain.cost_us), (2_500, 5));
    assert_eq!(gain.runs_per_hour, 3 * 83);
    // 2 is the only one that waits; then 4 comes, which was seen long ago and as often
    for _ in 0..6 {
        hot.see(4);
        hot.ran(4, None, 1_000);
    }
    hot.now_us += 50_000_000;
    for _ in 0..2 {
        hot.see(2);
    }
    assert_eq!(specialised(&hot.finish(3, true)), [2]);
}

#[test]
fn a_class_that_stays_hot_is_planned_anew_once() {
    let mut lazy = Script::new("lazy", limits(8, 1));
    lazy.settle(7);
    for _ in 0..31 {
        assert_eq!(lazy.see(7), nothing(Reason::Installed));
    }
    let ask = Action::Specialise {
        class: class(7),
        tier: Tier::Second,
        shape: shape(7),
        priority: -1,
        blocking: false,
        at_hand: false,
        gain: None,
    };
    assert_eq!(lazy.see(7), [ask]);
    assert_eq!(lazy.see(7), nothing(Reason::SecondCompiling));
    // it takes one of the places
    assert_eq!(lazy.see(8), nothing(Reason::Waiting));
    assert_eq!(
        lazy.finish(7, true),
        nothing(Reason::UnknownClass),
        "of the first tier, which nobody asked for"
    );
    let (class, tier) = (class(7), Tier::Second);
    let actions = lazy.tell(What::CompileFinished {
        class: class.clone(),
        tier,
        ok: true,
        micros: 5,
    });
    let install = Action::Install {
        class: class.clone(),
        tier,
    };
    assert_eq!(actions[0], install);
    assert_eq!(specialised(&actions), [8]);
    assert_eq!(lazy.see(7), nothing(Reason::SecondInstalling));
    lazy.tell(What::Installed {
        class: class.clone(),
        tier,
    });
    for run in 1..=100 {
        match lazy.see(7).as_slice() {
            [Action::Refine { .. }] => assert_eq!(run, 64),
            other => assert_eq!(other, nothing(Reason::SecondInstalled)),
        }
    }
    // it leaves as a whole, and begins from the start
    lazy.tell(What::Evicted { class });
    assert_eq!(lazy.see(7), nothing(Reason::Waiting), "8 is being compiled");
}

#[test]
fn where_there_is_no_second_tier_the_first_goes_on() {
    for end in 0..3 {
        let mut lazy = Script::new("lazy", limits(8, 8));
        lazy.settle(7);
        (0..32).for_each(|_| {
            lazy.see(7);
        });
        let (class, tier) = (class(7), Tier::Second);
        let finished = |ok| What::CompileFinished {
            class: class.clone(),
            tier,
            ok,
            micros: 5,
        };
        let reason = match end {
            0 => lazy.tell(What::Kept {
                class: class.clone(),
            }),
            1 => lazy.tell(finished(false)),
            _ => {
                lazy.tell(finished(true));
                lazy.tell(What::InstallFailed {
                    class: class.clone(),
                    tier,
                })
            }
        };
        let reasons = [Reason::Kept, Reason::CompileFailed, Reason::InstallFailed];
        assert_eq!(reason, nothing(reasons[end]));
        let mut refined = 0;
        for _ in 0..100 {
            match lazy.see(7).as_slice() {
                [Action::Refine { .. }] => refined += 1,
                other => assert_eq!(other, nothing(Reason::Installed), "not asked again"),
            }
        }
        assert_eq!(refined, 1, "the first tier is the best there is");
    }
}

#[test]
fn first_tiers_come_before_second_ones_and_stale_ones_count_anew() {
    let mut lazy = Script::new("lazy", limits(8, 1));
    lazy.settle(7);
    lazy.see(1);
    for _ in 0..31 {
        lazy.see(7);
    }
    assert_eq!(lazy.see(7), nothing(Reason::SecondWaiting));
    assert_eq!(lazy.see(2), nothing(Reason::Waiting));
    assert_eq!(specialised(&lazy.finish(1, true)), [2], "7 is served");
    assert_eq!(specialised(&lazy.finish(2, true)), [7]);

    let mut hot = Script::new("hot", limits(8, 1));
    for _ in 0..3 {
        hot.see(7);
    }
    hot.finish(7, true);
    let (class, tier) = (class(7), Tier::First);
    hot.tell(What::Installed { class, tier });
    (0..32).for_each(|_| {
        hot.see(7);
    });
    hot.now_us += 61_000_000;
    (0..2).for_each(|_| {
        hot.see(9);
    });
    let actions = hot.see(9);
    assert!(matches!(&actions[0], Action::Cancel { class } if *class == self::class(7)));
    assert_eq!(specialised(&actions), [9]);
    assert_eq!(hot.see(7), nothing(Reason::Installed), "it still serves");
}

#[test]
fn a_second_tier_takes_the_place_of_the_first_and_leaves_like_it() {
    let mut lazy = Script::new("lazy", limits(1, 8));
    lazy.settle(7);
    (0..32).for_each(|_| {
        lazy.see(7);
    });
    let (seven, tier) = (class(7), Tier::Second);
    let finished = What::CompileFinished {
        class: seven.clone(),
        tier,
        ok: true,
        micros: 5,
    };
    let install = Action::Install {
        class: seven.clone(),
        tier,
    };
    assert_eq!(lazy.tell(finished), [install], "nothing has to leave");
    lazy.tell(What::Installed {
        class: seven.clone(),
        tier,
    });
    let actions = lazy.settle(8);
    assert_eq!(actions[0], Action::Evict { class: seven });
}

#[test]
fn what_nobody_sees_any_more_gives_up_its_place() {
    let mut hot = Script::new("hot", limits(8, 1));
    for dim in [1, 1, 1, 2, 2, 2] {
        hot.see(dim);
    }
    hot.now_us += 61_000_000;
    assert_eq!(hot.see(3), nothing(Reason::Counting));
    hot.see(3);
    let actions = hot.see(3);
    assert_eq!(actions[0], Action::Cancel { class: class(1) });
    assert_eq!(
        specialised(&actions),
        [3],
        "and 2, which waited, is forgotten"
    );
    assert_eq!(hot.see(2), nothing(Reason::Counting));
    assert_eq!(
        hot.finish(1, true),
        nothing(Reason::UnknownClass),
        "an answer that comes too late"
    );
}

#[test]
fn a_wish_counts_as_seen_often_enough() {
    let mut hot = Script::new("hot", Limits::default());
    let (class, signature) = (class(9), shape(9));
    let wish = What::Wished { class, signature };
    assert_eq!(specialised(&hot.tell(wish.clone())), [9]);
    assert_eq!(hot.tell(wish.clone()), nothing(Reason::Compiling));
    hot.finish(9, true);
    hot.tell(What::Installed {
        class: self::class(9),
        tier: Tier::First,
    });
    // and once it is served, a wish is for the best there is
    let actions = hot.tell(wish.clone());
    assert!(matches!(
        actions.as_slice(),
        [Action::Specialise {
            tier: Tier::Second,
            ..
        }]
    ));
    assert_eq!(hot.tell(wish), nothing(Reason::SecondCompiling));
}

#[test]
fn the_compile_time_is_bounded() {
    let mut lazy = Script::new(
        "lazy",
        Limits {
            max_compile_us: Some(10),
            ..limits(8, 1)
        },
    );
    lazy.see(1);
    lazy.see(2);
    assert_eq!(specialised(&lazy.finish(1, true)), [2], "5 of 10");
    lazy.see(3);
    assert_eq!(specialised(&lazy.finish(2, true)), [0_i64; 0], "10 of 10");
    assert_eq!(lazy.see(4), nothing(Reason::Budget));
}

#[test]
fn shapes_of_one_range_share_a_compile() {
    let mut ranges = Script::new("ranges", Limits::default());
    assert_eq!(
        specialised(&ranges.see(40)),
        [40],
        "tuned for the first one seen"
    );
    assert_eq!(ranges.see(63), nothing(Reason::Compiling));
    assert_eq!(specialised(&ranges.see(64)), [64]);
    let mut divisible = Script::new("divisible", Limits::default());
    assert_eq!(specialised(&divisible.see(48)), [48]);
    assert_eq!(divisible.see(64), nothing(Reason::Compiling));
    assert_eq!(specialised(&divisible.see(8)), [8]);
}

#[test]
fn idle_classes_are_bounded() {
    let mut script = Script::new("lazy", Limits::default());
    for dim in 0..MAX_IDLE as i64 + 3 {
        script.see(dim);
        script.finish(dim, false);
    }
    assert_eq!(script.policy.classes().len(), MAX_IDLE);
    assert_eq!(
        specialised(&script.see(0)),
        [0],
        "forgotten, so tried again"
    );
    assert_eq!(script.see(MAX_IDLE as i64), nothing(Reason::FailedBefore));
}

#[test]
fn a_class_of_another_map_is_unknown() {
    let mut script = Script::new("static", Limits::default());
    let what = What::Observed {
        class: class(7),
        signature: shape(7),
        run: 0,
        generic: true,
    };
    assert_eq!(script.tell(what), nothing(Reason::UnknownClass));
}
