//! Shapes between those that have programs: what a passer-by is served by.
//!
//! Some shapes never come back. A language model's cache is one longer in every step, and each length is a new shape. With a
//! class for each shape such runs would all be generic, while most of their kernels do not depend on the extent that moves:
//! they were compiled for the shape before, and are right for this one.
//!
//! A new shape is therefore compared with the shape in service that it has most extents in common with. Both lie in a class
//! that is *between* them: where they agree, its extents have that value; where they differ, they lie between powers of two.
//! Its program is made at once, of the kernels that are there and of generic ones, and compiles nothing
//! ([`Action::Borrow`]). If [`PASSERS_BY`] shapes came that fit it, the class is compiled as any other one; from then on a new
//! shape of it is a passer-by, for which nothing is compiled until it is seen again.

use crate::machine::{Class, Machine};
use crate::{Action, ClassId, ClassState, Fit, Signature, Tier};

/// New shapes of a class between others after which it is compiled: enough that they are a sequence and no accident.
pub const PASSERS_BY: u64 = 8;
/// Such classes at once; the one used longest ago leaves.
const MAX_BETWEEN: usize = 8;

/// The class between two shapes, if they agree anywhere and differ somewhere.
fn between(one: &Signature, other: &Signature) -> Option<ClassId> {
    let (one, other) = (one.dims(), other.dims());
    let agree = one.iter().zip(other).filter(|(a, b)| a == b).count();
    if one.len() != other.len() || agree == 0 || agree == one.len() {
        return None;
    }
    let fit = |(&a, &b): (&i64, &i64)| match a == b {
        true => Fit::Exact(b),
        false => Fit::between_powers(b, 2),
    };
    Some(ClassId::Fits(one.iter().zip(other).map(fit).collect()))
}

impl Machine {
    /// What a run of a shape without a program of its own is served by from the next time on.
    pub(crate) fn borrow(
        &mut self,
        own: &ClassId,
        shape: &Signature,
        seen: (u64, u64),
    ) -> Vec<Action> {
        let known = self.classes.get(own);
        let is_new = known.is_some_and(|known| known.sightings == 1);
        if !self.axes.between || known.is_none_or(|known| known.state.is_resident()) {
            return Vec::new();
        }
        let fitting =
            |(id, class): (&ClassId, &Class)| (class.between && id.fits(shape)).then(|| id.clone());
        if let Some(class) = self.classes.iter().find_map(fitting) {
            let mut actions = self.lend(&class, shape);
            actions.extend(self.passed(&class, seen, is_new));
            return actions;
        }
        let common = |lender: &Signature| {
            let pairs = lender.dims().iter().zip(shape.dims());
            pairs.filter(|(a, b)| a == b).count()
        };
        let lenders = self.classes.values().filter(|class| {
            let serves = class.state.is_resident() && class.state != ClassState::Installing;
            serves && !class.between
        });
        let lender = lenders.max_by_key(|class| (common(&class.shape), class.seen));
        let Some(class) = lender.and_then(|lender| between(&lender.shape, shape)) else {
            return Vec::new();
        };
        let mut actions = self.make_room();
        self.classes
            .insert(class.clone(), Class::between(shape, seen, true));
        actions.push(Action::Borrow {
            class,
            shape: shape.clone(),
        });
        actions
    }

    /// What serves a class that was wanted before a shape of it came, until its own kernels are there.
    fn lend(&mut self, class: &ClassId, shape: &Signature) -> Vec<Action> {
        let lenders = |other: &Class| other.state.serves() && !other.between;
        let there = self.classes.values().any(lenders);
        let known = self.classes.get_mut(class);
        let bare = |known: &&mut Class| {
            !known.borrowed && !known.state.is_resident() && known.state != ClassState::Failed
        };
        let Some(known) = known.filter(|known| there && bare(known)) else {
            return Vec::new();
        };
        known.borrowed = true;
        vec![Action::Borrow {
            class: class.clone(),
            shape: shape.clone(),
        }]
    }

    /// A shape came that a class between others fits.
    fn passed(&mut self, class: &ClassId, seen: (u64, u64), is_new: bool) -> Vec<Action> {
        let Some(known) = self.classes.get_mut(class) else {
            return Vec::new();
        };
        known.seen = known.seen.max(seen);
        known.heat.see(seen.0);
        known.sightings += u64::from(is_new);
        if !is_new || known.state != ClassState::Counting || known.sightings < PASSERS_BY {
            return Vec::new();
        }
        known.since = seen.1;
        let mut actions = self.want(class, Tier::First, seen);
        actions.retain(|action| !matches!(action, Action::Nothing(_)));
        actions
    }

    /// Whether a class between others fits a shape and has kernels of its own, or is getting them.
    pub(crate) fn is_passer_by(&self, shape: &Signature) -> bool {
        let mut all = self.classes.iter();
        all.any(|(id, class)| {
            let wanted = class.state.waiting().or(class.state.compiling()).is_some();
            class.between && (wanted || class.state.is_resident()) && id.fits(shape)
        })
    }

    /// Lets the class between others that was used longest ago go, if there are too many.
    pub(crate) fn make_room(&mut self) -> Vec<Action> {
        let all = self.classes.iter().filter(|(_, class)| class.between);
        let at_rest = all.clone().filter(|(_, class)| {
            matches!(
                class.state,
                ClassState::Counting | ClassState::Installed | ClassState::Failed
            )
        });
        if all.count() < MAX_BETWEEN {
            return Vec::new();
        }
        let oldest = at_rest.min_by_key(|(_, class)| class.seen);
        let Some(class) = oldest.map(|(id, _)| id.clone()) else {
            return Vec::new();
        };
        self.set(&class, ClassState::Evicting);
        vec![Action::Evict { class }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Policy, Reason, What, preset};

    fn shape(past: i64) -> Signature {
        Signature::new(&[1, past])
    }

    /// `lazy` with a program for a cache of 512 entries in service.
    fn lazy() -> (Box<dyn Policy>, ClassId) {
        let mut policy = preset("lazy", None, crate::Limits::default()).unwrap();
        see(&mut *policy, 512);
        let class = ClassId::Exact(shape(512));
        finish(&mut *policy, &class);
        (policy, class)
    }

    fn tell(policy: &mut dyn Policy, what: What) -> Vec<Action> {
        policy.on_event(&Event { now_us: 0, what })
    }

    fn see(policy: &mut dyn Policy, past: i64) -> Vec<Action> {
        let signature = shape(past);
        let what = What::Observed {
            class: policy.class_of(&signature),
            signature,
            run: 0,
            generic: true,
        };
        tell(policy, what)
    }

    fn finish(policy: &mut dyn Policy, class: &ClassId) {
        let (class, tier) = (class.clone(), Tier::First);
        let finished = What::CompileFinished {
            class: class.clone(),
            tier,
            ok: true,
            micros: 1,
        };
        tell(policy, finished);
        tell(policy, What::Installed { class, tier });
    }

    fn asked(actions: &[Action]) -> Vec<String> {
        let text = |action: &Action| match action {
            Action::Borrow { class, .. } => Some(format!("borrow {class}")),
            Action::Specialise {
                class, priority, ..
            } => Some(format!("specialise {class} at {priority}")),
            Action::Evict { class } => Some(format!("evict {class}")),
            Action::Nothing(reason) => Some(reason.code().to_owned()),
            _ => None,
        };
        actions.iter().filter_map(text).collect()
    }

    #[test]
    fn shapes_agree_somewhere_and_differ_somewhere() {
        let text = |a: &[i64], b: &[i64]| {
            let class = between(&Signature::new(a), &Signature::new(b));
            class.map_or("none".into(), |class| class.to_string())
        };
        assert_eq!(text(&[1, 512], &[1, 513]), "1x512..1023");
        assert_eq!(text(&[8, 512], &[1, 512]), "1..1x512");
        assert_eq!(text(&[1, 0], &[1, 7]), "1x4..7");
        assert_eq!(text(&[1, 7], &[1, 0]), "1x0");
        assert_eq!(text(&[1, 2], &[3, 4]), "none");
        assert_eq!(text(&[1, 2], &[1, 2]), "none");
    }

    #[test]
    fn a_growing_cache_is_served_by_what_is_there_and_then_compiled_once() {
        let (mut policy, _) = lazy();
        let first = see(&mut *policy, 513);
        assert_eq!(
            asked(&first),
            ["borrow 1x512..1023", "specialise 1x513 at 0"]
        );
        for past in 514..520 {
            let actions = asked(&see(&mut *policy, past));
            assert!(!actions.concat().contains("borrow"), "{actions:?}");
            let own = ClassId::Exact(shape(past - 1));
            finish(&mut *policy, &own);
        }
        let eighth = asked(&see(&mut *policy, 520));
        assert_eq!(
            eighth,
            ["specialise 1x512..1023 at 0", "specialise 1x520 at 0"]
        );
        // from now on a length has to come twice
        assert_eq!(asked(&see(&mut *policy, 599)), ["passer-by"]);
        let class = policy.classes().into_iter().map(|c| c.0);
        let class = class.into_iter().find(|c| c.to_string() == "1x512..1023");
        finish(&mut *policy, &class.unwrap());
        assert_eq!(asked(&see(&mut *policy, 600)), ["passer-by"]);
        assert_eq!(asked(&see(&mut *policy, 600)), ["specialise 1x600 at 0"]);
    }

    #[test]
    fn a_shape_seen_often_is_no_sequence() {
        let (mut policy, _) = lazy();
        see(&mut *policy, 513);
        for _ in 0..20 {
            assert_eq!(asked(&see(&mut *policy, 513)), ["compiling"]);
        }
    }

    #[test]
    fn without_a_shape_in_service_there_is_nothing_to_borrow() {
        let mut policy = preset("lazy", None, crate::Limits::default()).unwrap();
        for past in [512, 513] {
            let actions = asked(&see(&mut *policy, past));
            assert_eq!(actions, [format!("specialise 1x{past} at 0")]);
        }
    }

    #[test]
    fn a_program_that_the_runtime_dropped_is_borrowed_again() {
        let (mut policy, _) = lazy();
        let Action::Borrow { class, .. } = see(&mut *policy, 513).remove(0) else {
            panic!("nothing was borrowed");
        };
        let gone = tell(&mut *policy, What::Evicted { class });
        assert_eq!(gone, [Action::Nothing(Reason::Noted)]);
        assert_eq!(asked(&see(&mut *policy, 514))[0], "borrow 1x512..1023");
    }

    #[test]
    fn there_are_only_so_many_and_the_one_used_longest_ago_leaves() {
        let (mut policy, _) = lazy();
        let pasts: Vec<i64> = (0..MAX_BETWEEN as u32).map(|i| (1 << i) + 1).collect();
        for &past in pasts.iter().skip(1) {
            see(&mut *policy, past);
        }
        see(&mut *policy, 1);
        see(&mut *policy, 3);
        let actions = asked(&see(&mut *policy, 5000));
        assert_eq!(actions[..2], ["evict 1x4..7", "borrow 1x4096..8191"]);
    }
}
