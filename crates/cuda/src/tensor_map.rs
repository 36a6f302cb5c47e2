//! Tensor maps, encoded by the driver.
//!
//! Encoding is arithmetic on the host: it needs no context and asks the card nothing. A refusal is no error, since a kernel
//! that wants a map of what cannot have one is not run.

use bespoke_device::map::RANK;
use bespoke_device::{Arch, EncodedMap, TensorMap};
use bespoke_ir::DType;
use cudarc::driver::sys;
use sys::{
    CUtensorMapDataType as Element, CUtensorMapFloatOOBfill as Outside,
    CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
    CUtensorMapSwizzle as Swizzle,
};

use crate::api::Api;

/// The map of a matrix as [`bespoke_device::map`] describes it; `None` on cards and drivers that have none, for other
/// elements than `f16` and `bf16`, and where the driver refuses.
pub(crate) fn encode(api: &Api, arch: Arch, map: &TensorMap) -> Option<EncodedMap> {
    let encode = api
        .cuTensorMapEncodeTiled
        .filter(|_| arch.has_tensor_maps())?;
    let element = match map.element {
        DType::F16 => Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::BF16 => Element::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => return None,
    };
    let mut extents = [0; RANK];
    let (mut strides, mut tile) = ([0; RANK], [1; RANK]);
    let mut rank = 0;
    for (i, (extent, stride, part)) in map.axes().enumerate() {
        rank = i + 1;
        extents[i] = u64::try_from(extent).ok()?;
        strides[i] = u64::try_from(stride).ok()?;
        tile[i] = part;
    }
    // the binding's type has the alignment that the driver asks for
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: writes one map; every array has room for the largest rank, the strides from the second axis on. The address is encoded, not read.
    let code = unsafe {
        encode(
            &mut encoded,
            element,
            rank as u32,
            map.address.0 as *mut _,
            extents.as_ptr(),
            strides[1..].as_ptr(),
            tile.as_ptr(),
            [1; RANK].as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    (code == 0).then(|| encoded.opaque.map(|word| word as i64))
}

#[cfg(test)]
mod tests {
    use bespoke_device::DevicePtr;
    use bespoke_device::map::{BATCHES, Lines, NO_BATCH};

    use super::*;
    use crate::fake;

    #[test]
    fn only_cards_and_drivers_that_have_maps_make_them() {
        let map = TensorMap {
            address: DevicePtr(1 << 20),
            element: DType::F16,
            extents: [72, 3],
            stride: 160,
            lines: Lines::Plain,
            batches: [NO_BATCH; BATCHES],
        };
        let hopper = Arch::of_card(9, 0);
        let api = fake::driver();
        let made = encode(api, hopper, &map).unwrap();
        // what the stand-in writes: address, extents, stride, box, and the constants
        assert_eq!(made[..6], [1 << 20, 72, 3, 160, 64, 64]);
        assert_eq!(encode(api, Arch::sm(89), &map), None);
        let floats = TensorMap {
            element: DType::F32,
            ..map
        };
        assert_eq!(encode(api, hopper, &floats), None);
        assert_eq!(fake::notes(), ["cuTensorMapEncodeTiled"]);
        fake::fail("cuTensorMapEncodeTiled", 0, 1);
        assert_eq!(encode(api, hopper, &map), None, "refused");
        assert_eq!(
            encode(fake::driver_without_edge_kinds(), hopper, &map),
            None
        );
    }
}
