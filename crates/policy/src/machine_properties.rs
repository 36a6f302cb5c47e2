//! Properties of every preset over random event sequences.

use super::*;

/// Shapes that have an extent in common, so that classes lie between them.
fn shape(dim: i64) -> Signature {
    Signature::new(&[1, dim])
}

/// Any event about a handful of classes, sensible or not.
fn event() -> impl Strategy<Value = (u8, i64, bool, u64)> {
    (0u8..15, 0i64..6, any::<bool>(), 0u64..50)
}

fn build(policy: &dyn Policy, (kind, dim, ok, now_us): (u8, i64, bool, u64), run: u64) -> Event {
    let (signature, mut class) = (shape(dim), policy.class_of(&shape(dim)));
    // what is reported may be of a class that no shape has for its own
    let known = policy.classes();
    if (2..=7).contains(&kind) && now_us % 2 == 1 && !known.is_empty() {
        class = known[dim as usize % known.len()].0.clone();
    }
    let what = match kind {
        0 => What::Loaded,
        1 => What::Observed {
            class,
            signature,
            run,
            generic: ok,
        },
        2 | 3 => What::CompileFinished {
            class,
            tier: [Tier::First, Tier::Second][usize::from(kind) - 2],
            ok,
            micros: now_us,
        },
        4 | 5 => What::Installed {
            class,
            tier: [Tier::First, Tier::Second][usize::from(kind) - 4],
        },
        6 => What::InstallFailed {
            class,
            tier: if ok { Tier::First } else { Tier::Second },
        },
        7 => What::Evicted { class },
        8 => What::Wished { class, signature },
        9 => What::Kept { class },
        10 => What::Ran {
            class,
            tier: ok.then_some(Tier::First),
            micros: now_us,
        },
        11 => What::Refined {
            class,
            micros: now_us,
        },
        12 => What::Recalled {
            class,
            runs: now_us,
            second: [None, Some(ok)][usize::from(run.is_multiple_of(2))],
        },
        13 => What::Postponed { class },
        _ => What::Tick,
    };
    Event { now_us, what }
}

/// As the preset, with a second tier and refinement after two runs, so that short scripts come to it.
fn warm(name: &str, limits: Limits) -> Box<dyn Policy> {
    let Ok(policy) = crate::file::parse("second_tier = 2\nrefine = 2", name, None, limits) else {
        unreachable!("the text is right");
    };
    match name {
        "lazy" => policy,
        _ => make(name, limits),
    }
}

fn run(name: &str, limits: Limits, script: &[(u8, i64, bool, u64)]) -> Vec<(Event, Vec<Action>)> {
    let mut policy = warm(name, limits);
    let step = |(index, raw): (usize, &(u8, i64, bool, u64))| {
        let event = build(policy.as_ref(), *raw, index as u64);
        let actions = policy.on_event(&event);
        (event, actions)
    };
    script.iter().enumerate().map(step).collect()
}

proptest! {
    #[test]
    fn equal_events_give_equal_actions(script in prop::collection::vec(event(), 0..60)) {
        for info in PRESETS {
            let once = run(info.name, limits(2, 2), &script);
            prop_assert_eq!(&once, &run(info.name, limits(2, 2), &script));
            prop_assert!(once.iter().all(|(_, actions)| !actions.is_empty()), "a silent decision");
        }
    }

    #[test]
    fn none_does_nothing(script in prop::collection::vec(event(), 0..60)) {
        for (event, actions) in run("none", Limits::default(), &script) {
            prop_assert!(matches!(actions.as_slice(), [Action::Nothing(_)]), "{event:?}");
        }
    }

    #[test]
    fn lazy_never_blocks_and_eager_always_does(script in prop::collection::vec(event(), 0..60)) {
        for (name, blocks) in [("lazy", false), ("eager", true)] {
            for (_, actions) in run(name, limits(2, 2), &script) {
                for action in actions {
                    match action {
                        Action::Specialise { blocking, tier, .. } => {
                            prop_assert_eq!(blocking, blocks && tier == Tier::First);
                        }
                        Action::Wait { .. } => prop_assert!(blocks),
                        _ => {}
                    }
                }
            }
        }
    }

    #[test]
    fn eager_specialises_at_first_sight(script in prop::collection::vec(event(), 0..60)) {
        let mut met = BTreeSet::new();
        for (event, actions) in run("eager", limits(2, 1), &script) {
            if let What::Wished { class, .. } = &event.what {
                met.insert(class.clone());
            }
            if let What::Observed { class, signature, .. } = event.what && met.insert(class.clone()) {
                prop_assert_eq!(
                    actions,
                    [Action::Specialise {
                        class, tier: Tier::First, shape: signature, priority: 100, blocking: true, at_hand: false, gain: None,
                    }]
                );
            }
        }
    }

    #[test]
    fn classes_are_asked_for_once_and_never_unasked(script in prop::collection::vec(event(), 0..80)) {
        for info in PRESETS {
            let mut alive: BTreeSet<(ClassId, Tier)> = BTreeSet::new();
            let mut borrowed: BTreeSet<ClassId> = BTreeSet::new();
            let (mut refined, mut refining) = (BTreeSet::new(), None);
            for (event, actions) in run(info.name, limits(2, 3), &script) {
                let mut known_before = alive.clone();
                if let What::Refined { class, .. } = &event.what {
                    refining.take_if(|c| c == class);
                }
                for action in actions {
                    match action {
                        Action::Specialise { class, tier, .. } => {
                            prop_assert!(alive.insert((class.clone(), tier)), "{class} asked for twice");
                            prop_assert!(alive.contains(&(class.clone(), Tier::First)), "{class} begins with {tier:?}");
                            known_before.insert((class, tier));
                        }
                        Action::Install { class, tier } => {
                            prop_assert!(known_before.contains(&(class.clone(), tier)), "{class} was never asked for");
                        }
                        Action::Borrow { class, shape } => {
                            prop_assert!(class.fits(&shape) && !known_before.contains(&(class.clone(), Tier::First)));
                            prop_assert!(borrowed.insert(class.clone()), "{class} borrowed twice");
                        }
                        Action::Evict { class } if borrowed.contains(&class) => {}
                        Action::Wait { class } | Action::Evict { class } => {
                            prop_assert!(known_before.contains(&(class.clone(), Tier::First)), "{class} was never asked for");
                        }
                        Action::Nothing(Reason::Noted) => {
                            if let What::Evicted { class } = &event.what {
                                alive.retain(|(c, _)| c != class);
                                borrowed.remove(class);
                                refined.remove(class);
                                refining.take_if(|c| c == class);
                            }
                        }
                        Action::Refine { class, .. } => {
                            prop_assert!(alive.contains(&(class.clone(), Tier::First)), "{class} was never asked for");
                            prop_assert!(refined.insert(class.clone()), "{class} is refined twice");
                            prop_assert!(refining.replace(class).is_none(), "two at a time");
                        }
                        Action::Nothing(Reason::Postponed) => {
                            let What::Postponed { class } = &event.what else {
                                return Err(TestCaseError::fail("something else was postponed"));
                            };
                            prop_assert!(alive.remove(&(class.clone(), Tier::Second)), "{class} was never asked for");
                        }
                        // the later tier is the one under way
                        Action::Cancel { class } => {
                            let last = alive.iter().filter(|(c, _)| *c == class).max().cloned();
                            prop_assert!(last.is_some_and(|last| alive.remove(&last)), "{class} was never asked for");
                        }
                        Action::Nothing(_) => {}
                    }
                }
            }
        }
    }

    #[test]
    fn installed_programs_stay_within_the_limit(
        script in prop::collection::vec(event(), 0..120),
        max in 1usize..4,
    ) {
        for info in PRESETS {
            // Counted by an observer that only follows the actions and the runtime's own evictions.
            let mut resident = BTreeSet::new();
            // They serve without being compiled, a few at most, and do not count.
            let mut borrowed = BTreeSet::new();
            for (event, actions) in run(info.name, limits(max, 64), &script) {
                let gone = match (&event.what, actions.as_slice()) {
                    (What::Evicted { class }, [Action::Nothing(Reason::Noted)]) => Some(class),
                    // where a second tier fails, the first goes on
                    (
                        What::InstallFailed { class, tier: Tier::First },
                        [Action::Nothing(Reason::InstallFailed)],
                    ) => Some(class),
                    _ => None,
                };
                if let Some(class) = gone {
                    resident.remove(class);
                    if matches!(event.what, What::Evicted { .. }) {
                        borrowed.remove(class);
                    }
                }
                for action in actions {
                    match action {
                        Action::Install { class, tier: Tier::First } => prop_assert!(resident.insert(class)),
                        Action::Install { class, tier: Tier::Second } => prop_assert!(resident.contains(&class)),
                        Action::Borrow { class, .. } => prop_assert!(borrowed.insert(class)),
                        Action::Evict { class } => {
                            let lent = borrowed.remove(&class);
                            prop_assert!(resident.remove(&class) || lent);
                        }
                        _ => {}
                    }
                    prop_assert!(resident.len() <= max);
                }
            }
        }
    }

    #[test]
    fn the_class_of_a_shape_never_changes(script in prop::collection::vec(event(), 0..40)) {
        for info in PRESETS {
            let mut policy = make(info.name, Limits::default());
            let before: Vec<ClassId> = (0..6).map(|dim| policy.class_of(&shape(dim))).collect();
            for (index, raw) in script.iter().enumerate() {
                let event = build(policy.as_ref(), *raw, index as u64);
                policy.on_event(&event);
            }
            let after: Vec<ClassId> = (0..6).map(|dim| policy.class_of(&shape(dim))).collect();
            prop_assert_eq!(before, after);
        }
    }
}
