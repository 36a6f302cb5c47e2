//! Extents that grow: classes for shapes that have not come yet.
//!
//! A model whose output is an input made longer, as a cache of keys is, says which of its shapes come next. Who knows that
//! tells the policy which extents they are ([`Policy::set_growing`](crate::Policy::set_growing)). A policy that has classes
//! [between](crate::between) others need not wait then until a sequence of lengths has shown itself: with the first length
//! it wants, besides that length's own class, the one of all lengths up to the next power of two, whose kernels are mostly
//! the same. In the last eighth of its lengths it wants the next one.

use super::{Class, Machine};
use crate::{Action, ClassId, ClassState, Fit, Signature, Tier, Trigger};

/// An extent that grows from one run to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growing {
    /// Its place in a signature.
    pub extent: usize,
    /// The largest value that it may have.
    pub most: i64,
}

/// Lengths below this are one class: to compile for a few lengths each is not worth it.
const SHORT: i64 = 16;
/// So much of a length is looked ahead.
const AHEAD: i64 = 8;

/// The lengths that share a class with this one.
fn span(length: i64) -> Fit {
    match length {
        1..SHORT => Fit::Range(1, SHORT - 1),
        _ => Fit::between_powers(length, 2),
    }
}

impl Machine {
    /// Classes for what a shape that is wanted will grow into.
    pub(super) fn foresee(
        &mut self,
        own: &ClassId,
        shape: &Signature,
        seen: (u64, u64),
    ) -> Vec<Action> {
        let Trigger::Sightings(least) = self.axes.trigger else {
            return Vec::new();
        };
        let sightings = self.classes.get(own).map_or(0, |known| known.sightings);
        let grows = |at: usize| self.growing.iter().any(|g| g.extent == at);
        if !self.axes.between || self.growing.is_empty() || sightings < u64::from(least) {
            return Vec::new();
        }
        // now and a while later, as far as the model goes
        let later = |length: i64| length.saturating_add(length / AHEAD).max(1);
        let reached = |more: &dyn Fn(i64) -> i64| {
            let mut dims = shape.dims().to_vec();
            for grown in &self.growing {
                let dim = dims.get_mut(grown.extent)?;
                *dim = Some(more(*dim)).filter(|&dim| dim <= grown.most)?;
            }
            let fit = |(at, &dim)| match grows(at) {
                true => span(dim),
                false => Fit::Exact(dim),
            };
            let fits = dims.iter().enumerate().map(fit).collect();
            Some((dims, ClassId::Fits(fits)))
        };
        let mut actions = Vec::new();
        let ahead = [reached(&|length| length.max(1)), reached(&later)];
        for (dims, class) in ahead.into_iter().flatten() {
            match self.classes.get_mut(&class) {
                None => {
                    actions.extend(self.make_room());
                    let shape = Signature::new(&dims);
                    self.classes
                        .insert(class.clone(), Class::between(&shape, seen, false));
                }
                // it was put together for a shape that was not expected
                Some(known) if known.state == ClassState::Counting => known.since = seen.1,
                Some(_) => continue,
            }
            let wanted = self.want(&class, Tier::First, seen);
            let said = |action: &Action| !matches!(action, Action::Nothing(_));
            actions.extend(wanted.into_iter().filter(said));
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Limits, Policy, What, preset};

    /// The second extent, up to a thousand.
    const GROWING: Growing = Growing {
        extent: 1,
        most: 1000,
    };

    struct Script(Box<dyn Policy>);

    impl Script {
        fn new(name: &str, max_compiling: usize) -> Script {
            let limits = Limits {
                max_compiling: max_compiling.try_into().unwrap(),
                ..Limits::default()
            };
            let mut policy = preset(name, None, limits).unwrap();
            policy.set_growing(&[GROWING]);
            Script(policy)
        }

        fn tell(&mut self, what: What) -> Vec<String> {
            let actions = self.0.on_event(&Event { now_us: 0, what });
            let text = |action: &Action| match action {
                Action::Borrow { class, .. } => format!("borrow {class}"),
                Action::Specialise { class, shape, .. } => format!("{class} for {shape}"),
                Action::Evict { class } => format!("evict {class}"),
                Action::Nothing(reason) => reason.code().to_owned(),
                other => format!("{other:?}"),
            };
            actions.iter().map(text).collect()
        }

        fn see(&mut self, batch: i64, past: i64) -> Vec<String> {
            let signature = Signature::new(&[batch, past]);
            self.tell(What::Observed {
                class: self.0.class_of(&signature),
                signature,
                run: 0,
                generic: true,
            })
        }

        fn finish(&mut self, class: &str) -> Vec<String> {
            let all = self.0.classes().into_iter().map(|(class, _)| class);
            let class = all.into_iter().find(|c| c.to_string() == class).unwrap();
            let tier = Tier::First;
            let said = self.tell(What::CompileFinished {
                class: class.clone(),
                tier,
                ok: true,
                micros: 1,
            });
            self.tell(What::Installed { class, tier });
            said
        }
    }

    #[test]
    fn the_first_length_asks_for_those_that_follow() {
        let mut s = Script::new("lazy", 4);
        assert_eq!(s.see(1, 40), ["1x40 for 1x40", "1x32..63 for 1x40"]);
        assert_eq!(s.see(1, 40), ["compiling"]);
        s.finish("1x40");
        // before the class is there, what is there is borrowed under its name, once
        assert_eq!(s.see(1, 41), ["borrow 1x32..63", "passer-by"]);
        assert_eq!(s.see(1, 42), ["passer-by"]);
        s.finish("1x32..63");
        assert_eq!(s.see(1, 43), ["passer-by"]);
        // the next class comes before the first length that needs it
        assert_eq!(s.see(1, 56), ["passer-by"]);
        assert_eq!(s.see(1, 57), ["passer-by", "1x64..127 for 1x64"]);
        // and another batch is another sequence
        assert_eq!(s.see(8, 43), ["8x43 for 8x43", "8x32..63 for 8x43"]);
    }

    #[test]
    fn a_cache_begins_empty_and_short_ones_share_a_class() {
        let mut s = Script::new("lazy", 4);
        assert_eq!(s.see(1, 0), ["1x0 for 1x0", "1x1..15 for 1x1"]);
        assert_eq!(s.see(1, 3), ["passer-by"]);
        assert_eq!(s.see(1, 14), ["passer-by"]);
        assert_eq!(s.see(1, 15), ["passer-by", "1x16..31 for 1x16"]);
    }

    #[test]
    fn only_what_has_classes_between_others_looks_ahead_and_not_before_its_trigger() {
        for name in ["none", "eager", "ranges"] {
            let mut s = Script::new(name, 4);
            s.see(1, 40);
            assert!(s.0.classes().len() <= 1, "{name}: {:?}", s.0.classes());
        }
        let mut s = Script::new("hot", 4);
        let mut sights = 0;
        let said = loop {
            sights += 1;
            let said = s.see(1, 40);
            if said != ["counting"] {
                break said;
            }
        };
        assert!(sights > 1, "{said:?}");
        assert_eq!(said, ["1x40 for 1x40", "1x32..63 for 1x40"]);
    }

    #[test]
    fn nothing_beyond_the_model_is_foreseen() {
        let mut s = Script::new("lazy", 4);
        let said = s.see(1, 900);
        assert_eq!(said, ["1x900 for 1x900", "1x512..1023 for 1x900"]);
        let mut s = Script::new("lazy", 4);
        assert_eq!(s.see(1, 1001), ["1x1001 for 1x1001"]);
    }

    #[test]
    fn with_one_place_the_shape_itself_comes_first() {
        let mut s = Script::new("lazy", 1);
        assert_eq!(s.see(1, 40), ["1x40 for 1x40"]);
        assert_eq!(
            s.finish("1x40").last().map(String::as_str),
            Some("1x32..63 for 1x40")
        );
    }

    #[test]
    fn without_extents_that_grow_nothing_is_foreseen() {
        let mut s = Script::new("lazy", 4);
        s.0.set_growing(&[]);
        assert_eq!(s.see(1, 40), ["1x40 for 1x40"]);
        let extent = 7;
        s.0.set_growing(&[Growing { extent, ..GROWING }]);
        assert_eq!(s.see(1, 41), ["1x41 for 1x41"]);
    }
}
