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
        4.8,
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

impl DeviceProps {
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
}
