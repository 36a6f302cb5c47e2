//! [`ClassState`]: where a class stands between its first sight and its best program.

use crate::Tier;

/// Where a class stands; see the crate's diagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClassState {
    /// Not seen often enough.
    Counting,
    /// Wanted, and waiting for a place among the compiles.
    Waiting,
    /// Asked for.
    Compiling,
    /// Compiled; the runtime was told to put it in service.
    Installing,
    /// In service, with the program of its first tier.
    Installed,
    /// In service; its second tier is wanted and waits for a place among the compiles.
    SecondWaiting,
    /// In service; its second tier is asked for.
    SecondCompiling,
    /// In service; its second tier is compiled, and the runtime was told to put it in service.
    SecondInstalling,
    /// In service, with the program of its second tier.
    SecondInstalled,
    /// The runtime was told to drop it.
    Evicting,
    /// Did not compile, or the device did not take it.
    Failed,
}

impl ClassState {
    /// Whether the class counts against the limit of programs. It has one at a time: that of its second tier takes the
    /// place of the first.
    pub(crate) fn is_resident(self) -> bool {
        matches!(
            self,
            ClassState::Installing
                | ClassState::Installed
                | ClassState::SecondWaiting
                | ClassState::SecondCompiling
                | ClassState::SecondInstalling
                | ClassState::SecondInstalled
        )
    }

    /// Whether a program of the class is in service.
    pub(crate) fn serves(self) -> bool {
        matches!(
            self,
            ClassState::Installed
                | ClassState::SecondWaiting
                | ClassState::SecondCompiling
                | ClassState::SecondInstalling
                | ClassState::SecondInstalled
        )
    }

    /// Whether forgetting the class costs nothing but its count.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, ClassState::Counting | ClassState::Failed)
    }

    /// The tier that waits for a place among the compiles.
    pub(crate) fn waiting(self) -> Option<Tier> {
        match self {
            ClassState::Waiting => Some(Tier::First),
            ClassState::SecondWaiting => Some(Tier::Second),
            _ => None,
        }
    }

    /// The tier that is being compiled.
    pub(crate) fn compiling(self) -> Option<Tier> {
        match self {
            ClassState::Compiling => Some(Tier::First),
            ClassState::SecondCompiling => Some(Tier::Second),
            _ => None,
        }
    }

    /// Where a class stands that waits for a place among the compiles.
    pub(crate) fn wait(tier: Tier) -> ClassState {
        match tier {
            Tier::First => ClassState::Waiting,
            Tier::Second => ClassState::SecondWaiting,
        }
    }

    /// Where a class stands that is being compiled.
    pub(crate) fn compile(tier: Tier) -> ClassState {
        match tier {
            Tier::First => ClassState::Compiling,
            Tier::Second => ClassState::SecondCompiling,
        }
    }

    /// Where a class stands that is compiled.
    pub(crate) fn install(tier: Tier) -> ClassState {
        match tier {
            Tier::First => ClassState::Installing,
            Tier::Second => ClassState::SecondInstalling,
        }
    }

    /// Where a class stands whose tier is in service.
    pub(crate) fn serve(tier: Tier) -> ClassState {
        match tier {
            Tier::First => ClassState::Installed,
            Tier::Second => ClassState::SecondInstalled,
        }
    }

    /// Where a class stands whose tier will not be had.
    pub(crate) fn without(tier: Tier) -> ClassState {
        match tier {
            Tier::First => ClassState::Failed,
            Tier::Second => ClassState::Installed,
        }
    }
}
