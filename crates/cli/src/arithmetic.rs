//! `--arithmetic`: what products of floats may be computed in.
//!
//! The flag is the same for every command that plans a model; what comes of it depends on the model and the architecture, and
//! is said in notes, a line for each choice.

use bespoke::runtime::{Arithmetic, ArithmeticUse};
use clap::Args;

use crate::console::Console;

/// The flag.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ArithmeticOptions {
    /// What products of matrices are computed in: exact, or, with commas, tf32 (of f32) and one of f16 and promoted (sums of
    /// f16). Faster where the card is, and less exact
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "exact",
        help_heading = "Device and strategy"
    )]
    pub(crate) arithmetic: Arithmetic,
}

/// Says what came of the flag.
pub(crate) fn tell(uses: &[ArithmeticUse], console: &mut Console) {
    for line in uses {
        console.note(line);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: ArithmeticOptions,
    }

    #[test]
    fn words_are_read() {
        let read = |words: &[&str]| {
            let line = ["bespoke"].iter().chain(words);
            Line::try_parse_from(line).map(|l| l.options.arithmetic.to_string())
        };
        assert_eq!(read(&[]).unwrap(), "exact");
        assert_eq!(
            read(&["--arithmetic", "promoted,tf32"]).unwrap(),
            "tf32,promoted"
        );
        let wrong = read(&["--arithmetic", "f16,promoted"]).unwrap_err();
        assert!(wrong.to_string().contains("write one of them"), "{wrong}");
    }
}
