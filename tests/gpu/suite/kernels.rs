//! The kernels of the device contract, each with its host twin.

use std::sync::Arc;

use bespoke_device::{Image, Operand, Signature, SlotKind, Twin, TwinCall, TwinError};
use bespoke_jit::{CompileRequest, Nvrtc};
use bytes::Bytes;

use crate::rig::{Outcome, Rig};

const SOURCE: &str = include_str!("kernels.cu");

/// What a kernel does.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// Read, write, n: one float to one float.
    Map(fn(f32) -> f32),
    /// Write, n: floats in place.
    InPlace(fn(f32) -> f32),
    /// Read, write, n: floats in reverse order.
    Reverse,
    /// An integer: nothing that a twin could do.
    None,
}

impl Meaning {
    fn signature(self) -> Signature {
        use SlotKind::{Int, Read, Write};
        Signature(match self {
            Meaning::Map(_) | Meaning::Reverse => vec![Read, Write, Int],
            Meaning::InPlace(_) => vec![Write, Int],
            Meaning::None => vec![Int],
        })
    }
}

impl Twin for Meaning {
    fn run(&self, call: &mut TwinCall<'_>) -> Result<(), TwinError> {
        let n = call.slots.last().copied().unwrap_or(0) as usize;
        let short = || TwinError(format!("a tensor has fewer than {n} floats"));
        match (self, call.operands.as_mut_slice()) {
            (Meaning::Map(f), [Operand::Read(from), Operand::Write(to)]) => {
                let (from, to) = (
                    bytemuck::cast_slice::<_, f32>(from),
                    bytemuck::cast_slice_mut::<_, f32>(to),
                );
                let to = to.get_mut(..n).ok_or_else(short)?;
                for (t, x) in to.iter_mut().zip(from.get(..n).ok_or_else(short)?) {
                    *t = f(*x);
                }
            }
            (Meaning::Reverse, [Operand::Read(from), Operand::Write(to)]) => {
                let (from, to) = (
                    bytemuck::cast_slice::<_, f32>(from),
                    bytemuck::cast_slice_mut::<_, f32>(to),
                );
                let to = to.get_mut(..n).ok_or_else(short)?;
                for (t, x) in to.iter_mut().rev().zip(from.get(..n).ok_or_else(short)?) {
                    *t = *x;
                }
            }
            (Meaning::InPlace(f), [Operand::Write(to)]) => {
                let to = bytemuck::cast_slice_mut::<_, f32>(to);
                for t in to.get_mut(..n).ok_or_else(short)? {
                    *t = f(*t);
                }
            }
            _ => {
                return Err(TwinError(
                    "this kernel has no meaning on the host".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

/// Architectures that the contract's kernels must compile for.
const ARCHS: [&str; 6] = ["sm_75", "sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// Needs NVRTC, but no GPU.
pub(crate) fn they_compile_for_every_architecture(rig: &Rig) -> Outcome {
    let Some(nvrtc) = &rig.nvrtc else {
        println!("skipped: host::kernels::they_compile_for_every_architecture: NVRTC is missing");
        return Ok(());
    };
    ARCHS
        .iter()
        .try_for_each(|arch| compile(nvrtc, arch).map(|_| ()))
}

/// The kernels by name.
const KERNELS: &[(&str, Meaning)] = &[
    ("plus_one", Meaning::Map(|x| x + 1.0)),
    ("twice", Meaning::Map(|x| x * 2.0)),
    ("bump", Meaning::InPlace(|x| x + 1.0)),
    ("fold", Meaning::InPlace(|x| x * 2.0 - 1.0)),
    ("bump_in_pairs", Meaning::InPlace(|x| x + 1.0)),
    ("reverse", Meaning::Reverse),
    ("stray", Meaning::None),
    ("greedy", Meaning::None),
];

/// All kernels in one cubin.
pub(crate) fn compile(nvrtc: &Nvrtc, arch: &str) -> Result<Bytes, String> {
    let request = CompileRequest {
        name: "contract",
        source: SOURCE,
        arch,
        ..CompileRequest::default()
    };
    nvrtc
        .compile(&request)
        .map(|c| c.cubin.into())
        .map_err(|e| e.to_string())
}

/// A kernel of [`KERNELS`]; another name is an image of a function that does not exist.
pub(crate) fn image(name: &str, cubin: Option<Bytes>) -> Image {
    let meaning = KERNELS
        .iter()
        .find(|(n, _)| *n == name)
        .map_or(Meaning::None, |(_, m)| *m);
    Image {
        name: name.to_owned(),
        entry: name.to_owned(),
        cubin,
        twin: Arc::new(meaning),
        signature: meaning.signature(),
    }
}
