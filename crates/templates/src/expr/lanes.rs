//! Typed tensors on the host: what twins read and write.
//!
//! [`Elements`] and [`ElementsMut`] are slices with their type known at run time; [`View`] and [`Lane`] say which
//! elements of one take part. Views are checked once against the length of their memory ([`View::new`]), so that no
//! loop behind them can leave it.

use bespoke_device::{Operand, TwinError};
use bespoke_ir::DType;
use half::{bf16, f16};

use crate::spec::Args;
use crate::view::Strided;

macro_rules! element_types {
    ($(($variant:ident, $ty:ty)),* $(,)?) => {
        /// Elements that are read.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "the names are those of `DType`")]
        pub enum Elements<'a> { $($variant(&'a [$ty]),)* }

        /// Elements that are written.
        #[derive(Debug)]
        #[allow(missing_docs, reason = "the names are those of `DType`")]
        pub enum ElementsMut<'a> { $($variant(&'a mut [$ty]),)* }

        impl<'a> Elements<'a> {
            /// The elements that `bytes` hold.
            pub fn of(dtype: DType, bytes: &'a [u8]) -> Result<Elements<'a>, TwinError> {
                match dtype {
                    $(DType::$variant => bytemuck::try_cast_slice(bytes)
                        .map(Elements::$variant)
                        .map_err(|e| misfit(dtype, bytes.len(), &e)),)*
                    other => Err(TwinError(format!("no kernel computes with {other}"))),
                }
            }

            /// Element type.
            pub fn dtype(&self) -> DType {
                match self { $(Elements::$variant(_) => DType::$variant,)* }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Elements::$variant(s) => s.len(),)* }
            }
        }

        impl<'a> ElementsMut<'a> {
            /// The elements that `bytes` hold.
            pub fn of(dtype: DType, bytes: &'a mut [u8]) -> Result<ElementsMut<'a>, TwinError> {
                let len = bytes.len();
                match dtype {
                    $(DType::$variant => bytemuck::try_cast_slice_mut(bytes)
                        .map(ElementsMut::$variant)
                        .map_err(|e| misfit(dtype, len, &e)),)*
                    other => Err(TwinError(format!("no kernel computes with {other}"))),
                }
            }

            /// Element type.
            pub fn dtype(&self) -> DType {
                match self { $(ElementsMut::$variant(_) => DType::$variant,)* }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(ElementsMut::$variant(s) => s.len(),)* }
            }

            /// The first `at` elements (at most all) and the rest.
            pub fn split_at(self, at: usize) -> (ElementsMut<'a>, ElementsMut<'a>) {
                match self {
                    $(ElementsMut::$variant(s) => {
                        let (a, b) = s.split_at_mut(at.min(s.len()));
                        (ElementsMut::$variant(a), ElementsMut::$variant(b))
                    })*
                }
            }

            /// The same elements for reading.
            pub fn as_elements(&self) -> Elements<'_> {
                match self { $(ElementsMut::$variant(s) => Elements::$variant(s),)* }
            }
        }
    };
}

/// A Rust type that is the memory type of some element types.
pub trait Stored: bytemuck::Pod {
    /// The slice, if it has this type.
    fn slice(elements: Elements<'_>) -> Option<&[Self]>;
    /// The slice, if it has this type.
    fn slice_mut<'a>(elements: &'a mut ElementsMut<'_>) -> Option<&'a mut [Self]>;
}

macro_rules! stored {
    ($(($ty:ty, $($variant:ident)|+)),* $(,)?) => {$(
        impl Stored for $ty {
            fn slice(elements: Elements<'_>) -> Option<&[Self]> {
                match elements {
                    $(Elements::$variant(s))|+ => Some(s),
                    _ => None,
                }
            }

            fn slice_mut<'a>(elements: &'a mut ElementsMut<'_>) -> Option<&'a mut [Self]> {
                match elements {
                    $(ElementsMut::$variant(s))|+ => Some(s),
                    _ => None,
                }
            }
        }
    )*};
}

stored! {
    (f32, F32), (f64, F64), (f16, F16), (bf16, BF16), (i8, I8), (i16, I16), (i32, I32), (i64, I64), (u8, U8 | Bool),
    (u16, U16), (u32, U32), (u64, U64),
}

element_types! {
    (F32, f32), (F64, f64), (F16, f16), (BF16, bf16), (I8, i8), (I16, i16), (I32, i32), (I64, i64), (U8, u8),
    (U16, u16), (U32, u32), (U64, u64), (Bool, u8),
}

fn misfit(dtype: DType, bytes: usize, reason: &bytemuck::PodCastError) -> TwinError {
    TwinError(format!(
        "{bytes} bytes cannot be read as {dtype} ({reason}); pass whole, aligned elements"
    ))
}

impl Elements<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ElementsMut<'_> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The elements of an operand that is read. `index` counts the tensor parameters.
pub fn read<'a>(
    operands: &'a [Operand<'_>],
    index: usize,
    dtype: DType,
) -> Result<Elements<'a>, TwinError> {
    match operands.get(index) {
        Some(Operand::Read(bytes)) => Elements::of(dtype, bytes),
        Some(Operand::Write(bytes)) => Elements::of(dtype, bytes),
        None => Err(TwinError(format!("operand {index} is missing"))),
    }
}

/// The results and the operands that are read of one call, each in the order of the parameters.
pub fn split_operands<'a>(operands: &'a mut [Operand<'_>]) -> (Vec<&'a mut [u8]>, Vec<&'a [u8]>) {
    let (mut writes, mut reads): (Vec<&'a mut [u8]>, Vec<&'a [u8]>) = (Vec::new(), Vec::new());
    for operand in operands {
        match operand {
            Operand::Write(bytes) => writes.push(bytes),
            Operand::Read(bytes) => reads.push(bytes),
        }
    }
    (writes, reads)
}

/// The operands `prefix0 …` of these types, viewed over `extents`.
pub(crate) fn views<'a>(
    args: &Args<'_>,
    prefix: &str,
    types: &[DType],
    tensors: &[&'a [u8]],
    extents: &[i64],
) -> Result<Vec<View<'a>>, TwinError> {
    types
        .iter()
        .enumerate()
        .map(|(i, &ty)| {
            let name = format!("{prefix}{i}");
            let bytes = tensors
                .get(i)
                .ok_or_else(|| TwinError(format!("operand `{name}` is missing")))?;
            View::new(
                &name,
                Elements::of(ty, bytes)?,
                Strided::of(args, &name, extents.len()),
                extents,
            )
        })
        .collect()
}

/// Checks that the elements of a view over `extents` lie within `len` elements. Nothing is needed of a space without
/// points.
pub fn check(name: &str, view: &Strided, extents: &[i64], len: usize) -> Result<(), TwinError> {
    if extents.iter().any(|&d| d <= 0) {
        return Ok(());
    }
    let (mut low, mut high) = (i128::from(view.offset), i128::from(view.offset));
    for (&s, &d) in view.strides.iter().zip(extents) {
        let reach = i128::from(s) * i128::from(d - 1);
        if reach < 0 {
            low += reach
        } else {
            high += reach
        }
    }
    if low < 0 || high >= len as i128 {
        return Err(TwinError(format!(
            "view `{name}` reaches elements {low} to {high} of a tensor of {len}"
        )));
    }
    Ok(())
}

/// A tensor that is read through a view, checked against its memory.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The tensor's memory.
    pub elements: Elements<'a>,
    /// Which elements.
    pub strided: Strided,
}

impl<'a> View<'a> {
    /// A view over `extents`; an error if it leaves the memory.
    pub fn new(
        name: &str,
        elements: Elements<'a>,
        strided: Strided,
        extents: &[i64],
    ) -> Result<View<'a>, TwinError> {
        check(name, &strided, extents, elements.len())?;
        Ok(View { elements, strided })
    }

    /// The elements along `axis` from `position` on.
    pub fn lane(&self, position: &[i64], axis: usize) -> Lane<'a> {
        Lane {
            elements: self.elements,
            start: self.strided.at(position),
            stride: self.strided.strides.get(axis).copied().unwrap_or(0),
        }
    }
}

/// Elements at equal distances: element `k` of the lane is element `start + k · stride`.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Memory.
    pub elements: Elements<'a>,
    /// The first element.
    pub start: i64,
    /// Distance in elements; 0 repeats one element.
    pub stride: i64,
}

impl<'a> Lane<'a> {
    /// All elements in order.
    pub fn new(elements: Elements<'a>) -> Lane<'a> {
        Lane {
            elements,
            start: 0,
            stride: 1,
        }
    }

    /// The lane from element `k` on.
    pub fn skip(self, k: usize) -> Lane<'a> {
        Lane {
            start: self.start + self.stride * k as i64,
            ..self
        }
    }
}

impl<'a> From<&'a [f32]> for Lane<'a> {
    fn from(s: &'a [f32]) -> Self {
        Lane::new(Elements::F32(s))
    }
}

/// Where a lane of results goes.
#[derive(Debug)]
pub struct LaneMut<'a, 'b> {
    /// Memory.
    pub elements: &'a mut ElementsMut<'b>,
    /// The first element.
    pub start: i64,
    /// Distance in elements.
    pub stride: i64,
}
