//! Names of GPU architectures: `sm_89`, `sm_90a`.

use std::fmt;
use std::str::FromStr;

/// A compute capability with an optional feature suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch {
    /// Ten times major plus minor: 89 for 8.9, 120 for 12.0.
    pub number: u32,
    /// Whether instructions of exactly this architecture (`a`) may be used.
    pub specific: bool,
}

/// Text that names no architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no architecture; write sm_NN, for example sm_89, or sm_90a")]
pub struct ArchError(String);

impl Arch {
    /// A plain architecture.
    pub const fn sm(number: u32) -> Arch {
        Arch {
            number,
            specific: false,
        }
    }

    /// The architecture to compile for on a card of this compute capability: with its own instructions where a template
    /// uses them.
    pub fn of_card(major: u32, minor: u32) -> Arch {
        let number = major * 10 + minor;
        Arch {
            number,
            specific: number == 90,
        }
    }

    /// Whether a card of architecture `card` runs kernels for this one: of the same generation and not newer, or, with
    /// instructions of exactly one architecture, of that one. (CUDA C++ Programming Guide, "Binary Compatibility".)
    pub fn runs_on(self, card: Arch) -> bool {
        match self.specific {
            true => self == card,
            false => self.number / 10 == card.number / 10 && self.number <= card.number,
        }
    }

    /// Asynchronous copies to shared memory (`cp.async`).
    pub fn has_cp_async(self) -> bool {
        self.number >= 80
    }

    /// `mma.sync` on `bf16` and m16n8k16 on `f16`.
    pub fn has_mma_k16(self) -> bool {
        self.number >= 80
    }

    /// `mma.sync` on `tf32`.
    pub fn has_tf32(self) -> bool {
        self.number >= 80
    }

    /// Whether the tensor cores of the common cards take twice the time where products of `f16` are accumulated in `f32`: those
    /// of GeForce do. Workstation and data-centre cards of the same architectures do not, which an architecture does not tell.
    pub fn halves_f32_sums(self) -> bool {
        matches!(self.number, 75 | 86 | 89 | 120..)
    }

    /// Whether this is Hopper, with or without the instructions that are its own. Its tensor cores are made for `wgmma`, and give
    /// `mma.sync` a part of their rate only.
    pub fn is_hopper(self) -> bool {
        self.number == 90
    }

    /// `wgmma`, the matrix instructions of Hopper alone.
    pub fn has_wgmma(self) -> bool {
        self.is_hopper() && self.specific
    }

    /// Blocks in clusters, which read each other's shared memory.
    pub fn has_clusters(self) -> bool {
        self.number >= 90
    }

    /// Copies of boxes of a tensor by tensor maps (TMA).
    pub fn has_tensor_maps(self) -> bool {
        self.number >= 90
    }

    /// Programmatic dependent launch (`griddepcontrol`).
    pub fn has_dependent_launch(self) -> bool {
        self.number >= 90
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sm_{}{}",
            self.number,
            if self.specific { "a" } else { "" }
        )
    }
}

impl FromStr for Arch {
    type Err = ArchError;

    fn from_str(text: &str) -> Result<Arch, ArchError> {
        let fail = || ArchError(text.to_owned());
        let rest = text.strip_prefix("sm_").ok_or_else(fail)?;
        let (digits, specific) = match rest.strip_suffix('a') {
            Some(d) => (d, true),
            None => (rest, false),
        };
        let number: u32 = digits.parse().map_err(|_| fail())?;
        if !(50..=200).contains(&number) || digits.starts_with('+') {
            return Err(fail());
        }
        Ok(Arch { number, specific })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_on_cards_of_their_generation_that_are_not_older() {
        let runs = |of: &str, card: &str| {
            let [of, card] = [of, card].map(|text| text.parse::<Arch>().unwrap());
            of.runs_on(card)
        };
        for (of, card) in [
            ("sm_86", "sm_89"),
            ("sm_90", "sm_90a"),
            ("sm_90a", "sm_90a"),
        ] {
            assert!(runs(of, card), "{of} on {card}");
        }
        for (of, card) in [
            ("sm_89", "sm_86"),
            ("sm_90a", "sm_90"),
            ("sm_89", "sm_90a"),
            ("sm_90", "sm_100"),
        ] {
            assert!(!runs(of, card), "{of} on {card}");
        }
    }

    #[test]
    fn text_round_trips() {
        for text in ["sm_75", "sm_89", "sm_90a", "sm_120"] {
            assert_eq!(text.parse::<Arch>().unwrap().to_string(), text);
        }
        for text in ["", "sm_", "89", "sm_8x", "sm_9999", "sm_+89"] {
            assert!(text.parse::<Arch>().is_err(), "{text}");
        }
    }
}
