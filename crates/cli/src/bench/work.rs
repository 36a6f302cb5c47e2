//! What one run of a measurement does: tensors in the device's memory, or on their way there and back.

use std::sync::Arc;

use bespoke::device::Memory;
use bespoke::ir::Constant;
use bespoke::runtime::{Bindings, RunOptions, RunReport, Session, Tensor};

use super::host::{self, HostTime};
use super::profile::{self, Profile};
use crate::failure::Failure;
use crate::placed::on_device;
use crate::session::tensor;

/// One point's run, to be repeated.
pub(super) enum Work<'a> {
    Device {
        session: &'a Session,
        bindings: Bindings,
        /// What the bindings point to.
        memory: Vec<Arc<dyn Memory>>,
    },
    Host {
        session: &'a Session,
        inputs: Vec<(&'a str, Tensor)>,
    },
}

impl<'a> Work<'a> {
    pub(super) fn new(
        session: &'a Session,
        names: &'a [String],
        inputs: &[Arc<Constant>],
        transfers: bool,
    ) -> Result<Work<'a>, Failure> {
        if transfers {
            let tensors = inputs.iter().map(|c| tensor(c));
            let named = names
                .iter()
                .zip(tensors)
                .map(|(name, t)| Ok((name.as_str(), t?)));
            let inputs = named.collect::<Result<_, Failure>>()?;
            return Ok(Work::Host { session, inputs });
        }
        let (bindings, memory) = on_device(session, inputs)?;
        Ok(Work::Device {
            session,
            bindings,
            memory,
        })
    }

    /// Profiles the steps; tensors that travel in a run lie on the device for this.
    pub(super) fn profile(
        &self,
        names: &'a [String],
        inputs: &[Arc<Constant>],
    ) -> Result<Profile, Failure> {
        match self {
            Work::Device {
                session, bindings, ..
            } => profile::take(session, bindings),
            Work::Host { session, .. } => {
                Work::new(session, names, inputs, false)?.profile(names, inputs)
            }
        }
    }

    /// Bytes of device memory beside the session's.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Work::Device { memory, .. } => memory.iter().map(|m| m.len()).sum(),
            Work::Host { .. } => 0,
        }
    }

    /// Measures the host's part of a run; tensors that travel in a run lie on the device for this.
    pub(super) fn host_time(
        &self,
        names: &'a [String],
        inputs: &[Arc<Constant>],
        steady_ms: f64,
    ) -> Result<HostTime, Failure> {
        match self {
            Work::Device {
                session, bindings, ..
            } => {
                let (others, _memory) = on_device(session, inputs)?;
                host::take(session, bindings, &others, steady_ms)
            }
            Work::Host { session, .. } => {
                Work::new(session, names, inputs, false)?.host_time(names, inputs, steady_ms)
            }
        }
    }

    pub(super) fn run(&mut self) -> Result<RunReport, Failure> {
        match self {
            Work::Device {
                session, bindings, ..
            } => Ok(session.run_into(bindings, &RunOptions::default())?),
            Work::Host { session, inputs } => {
                let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
                Ok(session.run(&given)?.report)
            }
        }
    }
}
