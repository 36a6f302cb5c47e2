//! What the driver's result codes mean.
//!
//! Three things follow from a code: which [`DeviceError`] it becomes, whether anything works afterwards, and what a
//! person can do about it. The tables follow the descriptions of `CUresult` in NVIDIA's driver API reference: codes whose
//! text says that the process is left inconsistent and must be relaunched are *lost*.

use bespoke_device::DeviceError;

use crate::api::Code;

/// An argument is not valid; the answer to some questions.
pub(crate) const INVALID_VALUE: Code = 1;

/// What a code means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It worked.
    Success,
    /// There is not enough memory; freeing some helps.
    OutOfMemory,
    /// The machine code does not suit this card or driver.
    BadImage,
    /// Nothing on the device works any more.
    Lost,
    /// This call failed.
    Failed,
}

/// Codes that are more than a failed call: inclusive ranges in ascending order.
const MEANINGS: &[(Code, Code, Meaning)] = &[
    (0, 0, Meaning::Success),
    (2, 2, Meaning::OutOfMemory),
    // the driver is shutting down with the process
    (4, 4, Meaning::Lost),
    // the card is gone, or withdrawn from this process
    (46, 46, Meaning::Lost),
    (100, 101, Meaning::Lost),
    (200, 200, Meaning::BadImage),
    (209, 209, Meaning::BadImage),
    // uncorrectable memory errors
    (214, 214, Meaning::Lost),
    (218, 218, Meaning::BadImage),
    // uncorrectable link errors
    (220, 220, Meaning::Lost),
    (221, 223, Meaning::BadImage),
    // a contained hardware error
    (226, 226, Meaning::Lost),
    (300, 303, Meaning::BadImage),
    // a kernel did something illegal, or ran into the watchdog
    (700, 700, Meaning::Lost),
    (702, 702, Meaning::Lost),
    // 709: the context was destroyed; 710: an assertion in a kernel
    (709, 710, Meaning::Lost),
    // 712 and 713 are about registering host memory and harmless
    (714, 719, Meaning::Lost),
    (721, 721, Meaning::Lost),
    // a shared server broke, or ended this client
    (806, 806, Meaning::Lost),
    (810, 810, Meaning::Lost),
    (911, 911, Meaning::Lost),
    (999, 999, Meaning::Lost),
];

/// The meaning of a code.
pub(crate) fn meaning(code: Code) -> Meaning {
    MEANINGS
        .iter()
        .find(|(from, to, _)| (*from..=*to).contains(&code))
        .map_or(Meaning::Failed, |(_, _, m)| *m)
}

/// What a person can do about a code.
const REMEDIES: &[(Code, &str)] = &[
    (1, "an argument or address is not valid on this device"),
    (
        34,
        "a stub of the driver library was loaded; remove the toolkit's `stubs` folder from the library path",
    ),
    (
        46,
        "another process has the card to itself, or it was withdrawn; end that process or set the compute mode to default",
    ),
    (
        100,
        "no GPU is visible; see what `nvidia-smi` lists and what CUDA_VISIBLE_DEVICES hides",
    ),
    (101, "name one of the devices that `bespoke doctor` lists"),
    (200, "the image is damaged; compile the kernel again"),
    (
        209,
        "the image was built for another architecture; compile the kernel for this card",
    ),
    (
        214,
        "the memory of the card is faulty; see `nvidia-smi -q -d ECC`",
    ),
    (
        222,
        "the image is newer than the driver; update the driver or use an older NVRTC",
    ),
    (
        500,
        "the image has no function of that name; compile the kernel again",
    ),
    (
        700,
        "a kernel touched memory that is not its own; compute-sanitizer finds where",
    ),
    (
        701,
        "the kernel needs more registers or shared memory than a block has; use a smaller block",
    ),
    (
        702,
        "a kernel ran longer than the display watchdog allows; use a card without a display",
    ),
    (
        716,
        "a kernel used a misaligned address; compute-sanitizer finds where",
    ),
    (719, "compute-sanitizer finds the kernel that failed"),
    (
        802,
        "the system is still starting; on NVSwitch machines check that nvidia-fabricmanager runs",
    ),
    (
        803,
        "driver library and kernel module differ in version; restart the machine after a driver update",
    ),
    (
        804,
        "this card does not support the compatibility library; remove it from the library path",
    ),
    (805, "the MPS server does not answer; restart it"),
    (
        806,
        "the MPS server failed; another of its clients may be the cause",
    ),
    (
        807,
        "the MPS server recovers from a fault of another client; try again later",
    ),
    (
        810,
        "the MPS server ended this client; another of its clients may be the cause",
    ),
    (
        999,
        "the driver gives no reason; see the kernel log for Xid messages, and restart the machine if this stays",
    ),
];

/// What a person can do about a code.
pub(crate) fn remedy(code: Code) -> Option<&'static str> {
    REMEDIES.iter().find(|(c, _)| *c == code).map(|(_, r)| *r)
}

/// A code in words: name, number, the driver's text, a remedy if there is one.
pub(crate) fn describe(code: Code, name: Option<&str>, text: Option<&str>) -> String {
    let mut out = format!("{} ({code})", name.unwrap_or("an unknown error"));
    if let Some(text) = text {
        out.push_str(": ");
        out.push_str(text);
    }
    if let Some(remedy) = remedy(code) {
        out.push_str("; ");
        out.push_str(remedy);
    }
    out
}

/// The error of a failed call that is about neither memory nor an image.
pub(crate) fn of_call(call: &'static str, code: Code, reason: String) -> DeviceError {
    match meaning(code) {
        Meaning::Lost => DeviceError::Lost { call, reason },
        _ => DeviceError::Call { call, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_meaning_that_the_reference_gives_them() {
        let table: &[(Meaning, &[Code])] = &[
            (Meaning::Success, &[0]),
            (Meaning::OutOfMemory, &[2]),
            (Meaning::BadImage, &[200, 209, 218, 221, 222, 223, 300, 302]),
            (
                Meaning::Lost,
                &[
                    4, 46, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 810, 999,
                ],
            ),
            (
                Meaning::Failed,
                &[
                    1, 3, 201, 400, 500, 600, 701, 708, 711, 712, 713, 720, 801, 900, 908, 910,
                    123_456,
                ],
            ),
        ];
        for (expected, codes) in table {
            for code in *codes {
                assert_eq!(meaning(*code), *expected, "code {code}");
            }
        }
    }

    #[test]
    fn tables_are_ascending_and_disjoint() {
        assert!(MEANINGS.windows(2).all(|w| w[0].1 < w[1].0));
        assert!(MEANINGS.iter().all(|m| m.0 <= m.1));
        assert!(REMEDIES.windows(2).all(|w| w[0].0 < w[1].0));
    }

    #[test]
    fn only_lost_is_sticky() {
        assert!(of_call("c", 700, "r".into()).is_sticky());
        assert!(!of_call("c", 701, "r".into()).is_sticky());
    }

    #[test]
    fn a_description_has_name_number_words_and_remedy() {
        let text = describe(
            209,
            Some("CUDA_ERROR_NO_BINARY_FOR_GPU"),
            Some("no kernel image is available"),
        );
        assert_eq!(
            text,
            "CUDA_ERROR_NO_BINARY_FOR_GPU (209): no kernel image is available; \
             the image was built for another architecture; compile the kernel for this card"
        );
        assert_eq!(describe(4711, None, None), "an unknown error (4711)");
    }
}
