//! Variables of the environment.
//!
//! Each of them has a flag that outranks it or is a matter of the machine. A variable with our prefix that nobody reads is
//! most likely mistyped, and a mistyped switch that does nothing is worse than a word about it.

use bespoke::onnx::error::nearest;

const PREFIX: &str = "BESPOKE_";

/// Every variable that some part of bespoke reads.
const KNOWN: &[&str] = &[
    "BESPOKE_CACHE",
    "BESPOKE_CACHE_DIR",
    "BESPOKE_CACHE_LAYERS",
    "BESPOKE_CACHE_MAX_SIZE",
    "BESPOKE_LIBCUDA",
    "BESPOKE_NVRTC",
    "BESPOKE_PYTHON",
    "BESPOKE_REGENERATE",
];

/// What `bespoke --help` says of them.
pub(crate) const HELP: &str = "\
Environment (flags outrank it):
  BESPOKE_CACHE           rw, ro or off: what the kernel cache may do
  BESPOKE_CACHE_DIR       folder of the kernel cache (else $XDG_CACHE_HOME/bespoke, else ~/.cache/bespoke)
  BESPOKE_CACHE_LAYERS    folders of kernels to read besides it, separated as in $PATH
  BESPOKE_CACHE_MAX_SIZE  limit on its size, such as 2G
  BESPOKE_NVRTC           folder or file of the NVRTC library; if set, nothing else is tried
  BESPOKE_LIBCUDA         file of the CUDA driver library
  CUDA_VISIBLE_DEVICES    GPUs that may be used";

/// A warning for each variable of these names that has our prefix and is not known.
pub(crate) fn strangers(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut strangers: Vec<String> = names
        .filter(|name| name.starts_with(PREFIX) && !KNOWN.contains(&name.as_str()))
        .collect();
    strangers.sort();
    let hint = |name: &str| {
        let tail = name.strip_prefix(PREFIX).unwrap_or(name);
        nearest(
            tail,
            KNOWN.iter().filter_map(|known| known.strip_prefix(PREFIX)),
        )
        .map_or_else(String::new, |near| {
            format!("; did you mean {PREFIX}{near}?")
        })
    };
    strangers
        .iter()
        .map(|name| format!("nothing reads the variable {name}{}", hint(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_variable_is_named_with_the_nearest_one() {
        let names = [
            "PATH",
            "BESPOKE_CACHE",
            "BESPOKE_NVRTCC",
            "BESPOKE_SOMETHING_ELSE",
        ];
        assert_eq!(
            strangers(names.into_iter().map(String::from)),
            [
                "nothing reads the variable BESPOKE_NVRTCC; did you mean BESPOKE_NVRTC?",
                "nothing reads the variable BESPOKE_SOMETHING_ELSE",
            ]
        );
        for name in KNOWN
            .iter()
            .filter(|n| !["BESPOKE_PYTHON", "BESPOKE_REGENERATE"].contains(n))
        {
            assert!(
                HELP.contains(&format!("  {name} ")),
                "{name} is not in the help"
            );
        }
    }
}
