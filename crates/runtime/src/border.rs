//! What comes in over the border of a session: the caller's tensors and the checks that they pass before a run.

use std::fmt::Write as _;

use bespoke_device::DevicePtr;
use bespoke_ir::DType;
use bespoke_plan::{Binding, Plan, Port};

use crate::error::Error;
use crate::lane::Pointers;
use crate::tensor::{Tensor, TensorView, byte_length};

/// Where a run's tensors are.
pub(crate) enum Source<'a> {
    Host(&'a Tensor),
    Device(&'a TensorView),
}

impl Source<'_> {
    pub(crate) fn dims(&self) -> &[i64] {
        match self {
            Source::Host(tensor) => tensor.dims(),
            Source::Device(view) => &view.dims,
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Source::Host(tensor) => tensor.dtype(),
            Source::Device(view) => view.dtype,
        }
    }
}

/// Extents of every input, of the types that the ports have.
///
/// # Errors
///
/// An input of another type.
pub(crate) fn extents<'a>(
    ports: &[Port],
    sources: &'a [Source<'_>],
) -> Result<Vec<&'a [i64]>, Error> {
    let inputs = sources.iter().zip(ports);
    inputs
        .map(|(source, port)| check_type(port, source.dtype()).map(|()| source.dims()))
        .collect()
}

/// Extents of every input for people: `x:1x3x48x320`.
pub(crate) fn shape_words<D: AsRef<[i64]>>(ports: &[Port], dims: &[D]) -> String {
    let mut shape = String::new();
    for (port, dims) in ports.iter().zip(dims) {
        let dims = dims.as_ref();
        if !shape.is_empty() {
            shape.push(',');
        }
        shape.push_str(&port.name);
        for (i, d) in dims.iter().enumerate() {
            // writing to a String cannot fail
            let _ = write!(shape, "{}{d}", if i == 0 { ':' } else { 'x' });
        }
        if dims.is_empty() {
            shape.push(':');
        }
    }
    shape
}

/// What specialised kernels take for granted of every address: that sixteen bytes can be moved at once.
const ALIGNMENT: u64 = 16;

/// Whether all memory of the caller is [aligned](ALIGNMENT); the session's own is.
pub(crate) fn aligned(sources: &[Source<'_>], targets: Option<&[&TensorView]>) -> bool {
    let inputs = sources.iter().filter_map(|source| match source {
        Source::Host(_) => None,
        Source::Device(view) => Some(view.pointer),
    });
    let outputs = targets.into_iter().flatten().map(|view| view.pointer);
    inputs.chain(outputs).all(|p| p.0 % ALIGNMENT == 0)
}

pub(crate) fn check_type(port: &Port, actual: DType) -> Result<(), Error> {
    if actual == port.ty.dtype {
        return Ok(());
    }
    Err(Error::InputType {
        input: port.name.clone(),
        actual,
        expected: port.ty.dtype,
    })
}

pub(crate) fn check_capacity(
    name: &str,
    view: &TensorView,
    bytes: u64,
) -> Result<DevicePtr, Error> {
    if view.capacity < bytes {
        let reason = format!("has {} bytes, the run needs {bytes}", view.capacity);
        return Err(Error::Buffer {
            name: name.to_owned(),
            reason,
        });
    }
    Ok(view.pointer)
}

/// Refuses memory of an output over a part of an input's, or over another output's: nothing says what of them is touched first.
/// An output may be all of an input's memory.
///
/// # Errors
///
/// [`Error::Buffer`], which names both.
pub(crate) fn check_overlaps(
    plan: &Plan,
    binding: &Binding,
    pointers: &Pointers,
) -> Result<(), Error> {
    let [inputs, outputs] = placed(plan, binding, pointers);
    apart(&inputs, outputs)
}

/// Memory that a run reads or writes under a name.
#[derive(Clone, Debug)]
pub(crate) struct Placed<'a> {
    name: &'a str,
    at: u64,
    bytes: u64,
}

impl Placed<'_> {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes)
    }

    /// Whether both have a byte in common.
    pub(crate) fn overlaps(&self, other: &Placed<'_>) -> bool {
        self.bytes.min(other.bytes) > 0 && self.at < other.end() && other.at < self.end()
    }
}

/// The memory of a run's inputs and of its outputs.
pub(crate) fn placed<'p>(
    plan: &'p Plan,
    binding: &Binding,
    pointers: &Pointers,
) -> [Vec<Placed<'p>>; 2] {
    let lists = [
        (&plan.inputs, &pointers.inputs),
        (&plan.outputs, &pointers.outputs),
    ];
    lists.map(|(ports, at)| {
        let each = ports.iter().zip(at).map(|(port, at)| Placed {
            name: &port.name,
            at: at.0,
            bytes: binding.sizes[port.buffer.0 as usize],
        });
        each.collect()
    })
}

fn apart(inputs: &[Placed<'_>], mut outputs: Vec<Placed<'_>>) -> Result<(), Error> {
    outputs.retain(|o| o.bytes > 0);
    outputs.sort_unstable_by_key(|o| o.at);
    let over = |output: &Placed<'_>, what: &str, other: &Placed<'_>| Error::Buffer {
        name: output.name.to_owned(),
        reason: format!(
            "lies over {what} `{}`; give it memory of its own",
            other.name
        ),
    };
    for pair in outputs.windows(2) {
        if pair[0].end() > pair[1].at {
            return Err(over(&pair[1], "output", &pair[0]));
        }
    }
    for input in inputs.iter().filter(|x| x.bytes > 0) {
        // outputs are apart, so they end in the order in which they begin
        let first = outputs.partition_point(|o| o.end() <= input.at);
        let mut others = outputs[first..].iter().take_while(|o| o.at < input.end());
        let part = others.find(|o| (o.at, o.bytes) != (input.at, input.bytes));
        if let Some(output) = part {
            return Err(over(output, "a part of input", input));
        }
    }
    Ok(())
}

pub(crate) fn check_dense(name: &str, view: &TensorView) -> Result<(), Error> {
    let Some(strides) = &view.strides else {
        byte_length(view.dtype, &view.dims)?;
        return Ok(());
    };
    let mut want = 1;
    for (i, &d) in view.dims.iter().enumerate().rev() {
        if strides.get(i) != Some(&want) && d != 1 {
            let reason = "is not dense row-major; copy it first".to_owned();
            return Err(Error::Buffer {
                name: name.to_owned(),
                reason,
            });
        }
        want *= d;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [[&str; 5]; 2] = [
        ["x0", "x1", "x2", "x3", "x4"],
        ["y0", "y1", "y2", "y3", "y4"],
    ];

    fn words(inputs: &[(u64, u64)], outputs: &[(u64, u64)]) -> String {
        let of = |list: &[(u64, u64)], names: [&'static str; 5]| {
            let each = list.iter().zip(names);
            let each = each.map(|(&(at, bytes), name)| Placed { name, at, bytes });
            each.collect::<Vec<_>>()
        };
        match apart(&of(inputs, NAMES[0]), of(outputs, NAMES[1])) {
            Ok(()) => "apart".to_owned(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn an_output_over_a_part_of_something_names_both() {
        assert_eq!(words(&[(64, 32), (0, 64)], &[(96, 8), (104, 8)]), "apart");
        assert_eq!(words(&[(64, 32)], &[(64, 32)]), "apart", "all of it");
        assert_eq!(
            words(&[(64, 32)], &[(64, 48)]),
            "the buffer for `y0` lies over a part of input `x0`; give it memory of its own"
        );
        assert_eq!(
            words(&[], &[(8, 8), (0, 9)]),
            "the buffer for `y0` lies over output `y1`; give it memory of its own"
        );
        assert_eq!(words(&[(0, 8)], &[(4, 0)]), "apart", "nothing is written");
        assert_eq!(words(&[(4, 0)], &[(0, 8)]), "apart", "nothing is read");
    }

    proptest! {
        #[test]
        fn what_is_refused_is_what_overlaps(
            inputs in prop::collection::vec((0_u64..40, 0_u64..12), 0..5),
            outputs in prop::collection::vec((0_u64..40, 0_u64..12), 0..5),
        ) {
            let over = |a: &(u64, u64), b: &(u64, u64)| (a.0..a.0 + a.1).any(|x| (b.0..b.0 + b.1).contains(&x));
            let among = outputs.iter().enumerate().any(|(i, a)| outputs[..i].iter().any(|b| over(a, b)));
            let partly = inputs.iter().any(|x| outputs.iter().any(|y| x != y && over(x, y)));
            prop_assert_eq!(words(&inputs, &outputs) == "apart", !among && !partly);
        }
    }
}
