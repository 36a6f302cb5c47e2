//! What is known of a device, and presets for cards that are not in this machine.
//!
//! A plan needs no live device: it needs [`DeviceProps`]. The presets hold the published figures of one common card for
//! each architecture, so that kernels can be planned and compiled for it anywhere.

use crate::arch::Arch;

/// Limits and rates of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProps {
    /// Name for people.
    pub name: String,
    /// Architecture that kernels are planned for.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may use at most, in bytes.
    pub shared_per_block: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_multiprocessor: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Threads of a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// Level-2 cache in bytes.
    pub l2_bytes: u64,
    /// Memory bandwidth in bytes a second.
    pub bandwidth: f64,
    /// Dense `f16` tensor-core rate with `f32` accumulation, in operations a second.
    pub f16_rate: f64,
    /// `f32` rate, in operations a second.
    pub f32_rate: f64,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// Driver version for people; empty for presets.
    pub driver: String,
}

/// name, arch, multiprocessors, shared/block KiB, shared/SM KiB, threads/SM, L2 MiB, TB/s, f16 TFLOP/s, f32 TFLOP/s, GiB
type Row = (
    &'static str,
    u32,
    u32,
    u32,
    u32,
    u32,
    u64,
    f64,
    f64,
    f64,
    u64,
);

const PRESETS: &[Row] = &[
    (
        "RTX 2080 Ti (preset)",
        75,
        68,
        64,
        64,
        1024,
        5,
        0.616,
        54.0,
        13.4,
        11,
    ),
    (
        "A100 (preset)",
        80,
        108,
        163,
        164,
        2048,
        40,
        1.555,
        312.0,
        19.5,
        40,
    ),
    (
        "RTX 3090 (preset)",
        86,
        82,
        99,
        100,
        1536,
        6,
        0.936,
        71.0,
        35.6,
        24,
    ),
    (
        "RTX 4090 (preset)",
        89,
        128,
        99,
        100,
        1536,
        72,
        1.008,
        165.0,
        82.6,
        24,
    ),
    (
        "H200 (preset)",
        90,
        132,
        227,
        228,
        2048,
        50,
        4.917,
        989.0,
        67.0,
        141,
    ),
    (
        "B200 (preset)",
        100,
        148,
        227,
        228,
        2048,
        126,
        8.0,
        2250.0,
        80.0,
        180,
    ),
    (
        "RTX 5090 (preset)",
        120,
        170,
        99,
        100,
        1536,
        96,
        1.792,
        209.5,
        105.0,
        32,
    ),
];

/// name, arch, multiprocessors, L2 MiB, TB/s, GiB
type Card = (&'static str, u32, u32, u64, f64, u64);

/// Further cards, by what differs from their architecture's preset.
const CARDS: &[Card] = &[
    ("T4", 75, 40, 4, 0.320, 16),
    ("A100 80GB", 80, 108, 40, 2.039, 80),
    ("A30", 80, 56, 24, 0.933, 24),
    ("A10", 86, 72, 6, 0.600, 24),
    ("A40", 86, 84, 6, 0.696, 48),
    ("RTX 3060", 86, 28, 3, 0.360, 12),
    ("RTX 4080", 89, 76, 64, 0.717, 16),
    ("RTX 4070", 89, 46, 36, 0.504, 12),
    ("RTX 4060", 89, 24, 24, 0.272, 8),
    ("L4", 89, 58, 48, 0.300, 24),
    ("L40S", 89, 142, 96, 0.864, 48),
    ("H100", 90, 132, 50, 3.35, 80),
    ("H100 PCIe", 90, 114, 50, 2.0, 80),
    ("RTX 5080", 120, 84, 64, 0.960, 16),
    ("RTX 5070", 120, 48, 48, 0.672, 12),
];

/// Names are compared by letters and digits alone: `rtx4090` is `RTX 4090`.
fn folded(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The card's own name in a preset's.
fn plain(name: &'static str) -> &'static str {
    name.trim_end_matches(" (preset)")
}

impl DeviceProps {
    /// The cards that [`DeviceProps::card`] knows, with the architecture that kernels are compiled for on them; of each
    /// architecture the one of [`DeviceProps::preset`] comes first.
    pub fn cards() -> Vec<(&'static str, Arch)> {
        let arch = |number: u32| Arch::of_card(number / 10, number % 10);
        let mut all: Vec<_> = PRESETS
            .iter()
            .map(|row| (plain(row.0), arch(row.1)))
            .chain(CARDS.iter().map(|card| (card.0, arch(card.1))))
            .collect();
        all.sort_by_key(|(_, arch)| *arch);
        all
    }

    /// Published figures of a card by name, whatever its case, spaces and hyphens; `None` for one that is not listed.
    ///
    /// Arithmetic rates are those of the architecture's preset, scaled by the number of multiprocessors, as they are for
    /// a card at hand, whose driver does not know them: tiles are chosen by these figures, and should be the same here
    /// and there.
    pub fn card(name: &str) -> Option<DeviceProps> {
        let wanted = folded(name);
        if let Some(row) = PRESETS.iter().find(|row| folded(plain(row.0)) == wanted) {
            return Some(DeviceProps::preset(Arch::of_card(row.1 / 10, row.1 % 10)));
        }
        let card = CARDS.iter().find(|card| folded(card.0) == wanted)?;
        let preset = DeviceProps::preset(Arch::of_card(card.1 / 10, card.1 % 10));
        let scale = f64::from(card.2) / f64::from(preset.multiprocessors);
        Some(DeviceProps {
            name: format!("{} (preset)", card.0),
            multiprocessors: card.2,
            l2_bytes: card.3 << 20,
            bandwidth: card.4 * 1e12,
            f16_rate: preset.f16_rate * scale,
            f32_rate: preset.f32_rate * scale,
            memory_bytes: card.5 << 30,
            ..preset
        })
    }

    /// Dense `tf32` rate of the tensor cores, in operations a second: half of what they do of `f16` on every architecture so
    /// far. The `f32` rate where they have no `tf32`.
    pub fn tf32_rate(&self) -> f64 {
        match self.arch.has_tf32() {
            true => self.f16_rate / 2.0,
            false => self.f32_rate,
        }
    }

    /// Dense `f16` rate of the tensor cores with `f16` accumulation, in operations a second: twice that with `f32` where
    /// accumulating in `f32` takes them twice the time.
    pub fn f16_sums_rate(&self) -> f64 {
        match self.arch.halves_f32_sums() {
            true => self.f16_rate * 2.0,
            false => self.f16_rate,
        }
    }

    /// Published figures of a common card of this architecture, or of the nearest older one.
    pub fn preset(arch: Arch) -> DeviceProps {
        let row = PRESETS
            .iter()
            .rev()
            .find(|row| row.1 <= arch.number)
            .unwrap_or(&PRESETS[0]);
        DeviceProps {
            name: row.0.to_owned(),
            arch,
            multiprocessors: row.2,
            shared_per_block: row.3 * 1024,
            shared_per_multiprocessor: row.4 * 1024,
            registers_per_multiprocessor: 65536,
            threads_per_multiprocessor: row.5,
            l2_bytes: row.6 << 20,
            bandwidth: row.7 * 1e12,
            f16_rate: row.8 * 1e12,
            f32_rate: row.9 * 1e12,
            memory_bytes: row.10 << 30,
            driver: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_card_gets_the_nearest_older_figures() {
        let props = DeviceProps::preset(Arch::sm(87));
        assert_eq!(props.arch, Arch::sm(87));
        assert_eq!(props.name, "RTX 3090 (preset)");
        assert_eq!(DeviceProps::preset(Arch::sm(121)).multiprocessors, 170);
    }

    #[test]
    fn rates_of_other_arithmetics_are_the_published_ones() {
        // TFLOP/s of tf32, and of f16 with sums of f16, of the cards of the presets
        for (arch, tf32, f16) in [
            (75, 13.4, 108.0),
            (80, 156.0, 312.0),
            (86, 35.5, 142.0),
            (89, 82.5, 330.0),
            (90, 494.5, 989.0),
            (120, 104.75, 419.0),
        ] {
            let props = DeviceProps::preset(Arch::sm(arch));
            let rates = [props.tf32_rate(), props.f16_sums_rate()].map(|r| r / 1e12);
            let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * b;
            assert!(near(rates[0], tf32) && near(rates[1], f16), "{rates:?}");
        }
    }

    #[test]
    fn cards_are_found_by_name() {
        for (name, arch) in DeviceProps::cards() {
            let card = DeviceProps::card(name).unwrap();
            assert_eq!((card.arch, card.name), (arch, format!("{name} (preset)")));
        }
        let l4 = DeviceProps::card("l4").unwrap();
        assert_eq!((l4.multiprocessors, l4.shared_per_block), (58, 99 * 1024));
        assert!(l4.f16_rate < DeviceProps::preset(Arch::sm(89)).f16_rate / 2.0);
        assert_eq!(
            DeviceProps::card("rtx-4090").unwrap(),
            DeviceProps::preset(Arch::sm(89))
        );
        assert_eq!(
            DeviceProps::card("H200").unwrap().arch.to_string(),
            "sm_90a"
        );
        assert_eq!(DeviceProps::card("Voodoo 2"), None);
        assert_eq!(DeviceProps::card(""), None);
    }

    #[test]
    fn the_preset_of_an_architecture_leads_its_cards() {
        let cards = DeviceProps::cards();
        for (at, (name, arch)) in cards.iter().enumerate() {
            if at == 0 || cards[at - 1].1 != *arch {
                assert_eq!(DeviceProps::preset(*arch).name, format!("{name} (preset)"));
            }
        }
    }
}
