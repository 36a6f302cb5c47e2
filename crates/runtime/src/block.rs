//! What the extent block holds, and what of it has to be written for a run.
//!
//! A run of the same shape on the same pointers writes nothing. One with other pointers changes the slots of these
//! pointers and the tensor maps of what lies there, which the plan lists, and looks at no others. Another shape is laid
//! out whole and compared. Of what changed, only pieces are written; slots that lie close together go in one, since a copy
//! costs as much as some kilobytes of it.
//!
//! Nothing is allocated once a lane has seen its shapes.

use std::ops::Range;

use bespoke_device::{EncodedMap, MAP_SLOTS, TensorMap};
use bespoke_plan::{Binding, Place, Plan};

use crate::lane::Pointers;

/// Slots that lie no further apart than this are written in one piece: 16 KiB.
const GAP: usize = 2048;

/// The slots of a lane's extent block.
#[derive(Debug, Default)]
pub(crate) struct Held {
    slots: Vec<i64>,
    /// For which shape and pointers they were made; `None` if nobody knows what the block holds.
    made_for: Option<(Vec<i64>, Pointers)>,
    /// What to write, by position.
    pieces: Vec<Range<usize>>,
    scratch: Vec<i64>,
    changed: Vec<usize>,
}

impl Held {
    /// Brings the slots up to date and returns how many pieces of the block have to be written. `address` gives the first
    /// byte of a buffer by its number, its place and its offset in the arena, `map` encodes tensor maps.
    pub(crate) fn update(
        &mut self,
        plan: &Plan,
        binding: &Binding,
        pointers: &Pointers,
        address: impl Fn(usize, &Place, u64) -> u64,
        map: impl Fn(&TensorMap) -> Option<EncodedMap>,
    ) -> usize {
        self.pieces.clear();
        self.changed.clear();
        match &mut self.made_for {
            Some((symbols, known)) if *symbols == binding.symbols => {
                if known == pointers {
                    return 0;
                }
                let lists = [
                    (&plan.port_slots.inputs, &known.inputs, &pointers.inputs),
                    (&plan.port_slots.outputs, &known.outputs, &pointers.outputs),
                ];
                for (places, known, new) in lists {
                    for ((places, known), new) in places.iter().zip(known).zip(new) {
                        if known == new {
                            continue;
                        }
                        for &slot in &places.addresses {
                            self.slots[slot] = new.0 as i64;
                        }
                        self.changed.extend(&places.addresses);
                        // a map is of one operand, whose address is there now
                        for place in &places.maps {
                            let encoded = place.of.encoded(&self.slots[place.row..], &map);
                            let held = &mut self.slots[place.at..][..MAP_SLOTS];
                            for (i, (held, new)) in held.iter_mut().zip(encoded).enumerate() {
                                if *held != new {
                                    *held = new;
                                    self.changed.push(place.at + i);
                                }
                            }
                        }
                    }
                }
                self.changed.sort_unstable();
                known.take_over(pointers);
            }
            made_for => {
                plan.slots(&plan.steps, binding, address, map, &mut self.scratch);
                let known = made_for.is_some() && self.slots.len() == self.scratch.len();
                let slots = self.scratch.iter().enumerate();
                let differs = |(i, new): &(usize, &i64)| !known || self.slots[*i] != **new;
                self.changed.extend(slots.filter(differs).map(|(i, _)| i));
                std::mem::swap(&mut self.slots, &mut self.scratch);
                match made_for {
                    Some((symbols, known)) => {
                        symbols.clone_from(&binding.symbols);
                        known.take_over(pointers);
                    }
                    None => *made_for = Some((binding.symbols.clone(), pointers.clone())),
                }
            }
        }
        for &slot in &self.changed {
            match self.pieces.last_mut() {
                Some(piece) if slot - piece.end <= GAP => piece.end = slot + 1,
                _ => self.pieces.push(slot..slot + 1),
            }
        }
        self.pieces.len()
    }

    /// The offset in the block and the bytes of a piece that has to be written.
    pub(crate) fn bytes(&self, piece: usize) -> (u64, &[u8]) {
        let range = self.pieces[piece].clone();
        let at = range.start as u64 * 8;
        (at, bytemuck::cast_slice(&self.slots[range]))
    }

    /// Nobody knows what the block holds.
    pub(crate) fn forget(&mut self) {
        self.made_for = None;
    }
}

#[cfg(test)]
mod tests {
    use bespoke_device::DevicePtr;
    use bespoke_ir::op::MatMul;
    use bespoke_ir::sym::{Symbol, SymbolOrigin};
    use bespoke_ir::{DType, Graph, SymInt, TensorType};
    use proptest::prelude::*;

    use super::*;

    /// `x[N,8] · y[8,8] · z[8,8] · …`, with so many factors of this type.
    fn plan(factors: usize, dtype: DType) -> Plan {
        let mut g = Graph::new("product");
        let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
        let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
        let mut at = g.add_input("x", TensorType::new(dtype, vec![n, 8.into()]));
        for i in 0..factors {
            let ty = TensorType::new(dtype, vec![8.into(), 8.into()]);
            let y = g.add_input(format!("y{i}"), ty);
            at = g
                .add1(format!("p{i}"), MatMul::default(), &[at, y])
                .unwrap();
        }
        g.add_output(at);
        bespoke_plan::plan(&g).unwrap()
    }

    /// A block in memory, and how it is kept up to date.
    struct Rig {
        plan: Plan,
        held: Held,
        block: Vec<u8>,
        written: usize,
    }

    impl Rig {
        fn new(factors: usize) -> Rig {
            Rig::of(factors, DType::F32)
        }

        fn of(factors: usize, dtype: DType) -> Rig {
            let plan = plan(factors, dtype);
            let block = vec![0xAA; plan.slot_count() * 8];
            Rig {
                plan,
                held: Held::default(),
                block,
                written: 0,
            }
        }

        fn run(&mut self, n: i64, inputs: &[u64], output: u64) -> usize {
            let binding = self.plan.bind_symbols(vec![n]).unwrap();
            let pointers = Pointers {
                inputs: inputs.iter().map(|&p| DevicePtr(p)).collect(),
                outputs: vec![DevicePtr(output)],
            };
            let address = |_: usize, place: &Place, offset: u64| match place {
                Place::Input(i) => pointers.inputs[*i].0,
                Place::Output(i) => pointers.outputs[*i].0,
                _ => (1 << 40) + offset,
            };
            let (plan, held) = (&self.plan, &mut self.held);
            let pieces = held.update(plan, &binding, &pointers, address, encoded);
            self.written = 0;
            for piece in 0..pieces {
                let (at, bytes) = self.held.bytes(piece);
                self.block[at as usize..][..bytes.len()].copy_from_slice(bytes);
                self.written += bytes.len();
            }
            let mut expected = Vec::new();
            let plan = &self.plan;
            plan.slots(&plan.steps, &binding, address, encoded, &mut expected);
            assert_eq!(self.block, bytemuck::cast_slice::<i64, u8>(&expected));
            pieces
        }
    }

    /// A made-up tensor map: sixteen numbers that all depend on everything that a map is of.
    #[allow(clippy::unnecessary_wraps, reason = "as a device has it")]
    fn encoded(map: &TensorMap) -> Option<EncodedMap> {
        let [inner, outer] = map.extents;
        let mix = |sum: i64, x: i64| (sum ^ x).wrapping_mul(0x100_0000_01b3);
        let all = [map.address.0 as i64, inner, outer, map.stride];
        Some(std::array::from_fn(|i| {
            all.iter().fold(i as i64 + 1, |sum, x| mix(sum, *x))
        }))
    }

    proptest! {
        #[test]
        fn the_block_always_holds_what_the_run_needs(
            half in any::<bool>(), unit in prop::sample::select(vec![1_u64, 16]),
            runs in prop::collection::vec((1_i64..4, prop::collection::vec(0_u64..3, 5), 0_u64..3, any::<bool>()), 1..20),
        ) {
            let mut rig = Rig::of(4, if half { DType::F16 } else { DType::F32 });
            for (n, inputs, output, forget) in runs {
                if forget {
                    rig.held.forget();
                }
                // a map is made of what lies at a multiple of 16 bytes
                let inputs: Vec<u64> = inputs.iter().map(|p| p * unit).collect();
                rig.run(n, &inputs, output);
            }
        }
    }

    #[test]
    fn another_pointer_writes_its_slots_alone() {
        let mut rig = Rig::new(4);
        let mut inputs = vec![1 << 8, 2 << 8, 3 << 8, 4 << 8, 5 << 8];
        assert_eq!(rig.run(3, &inputs, 9 << 8), 1);
        assert_eq!(rig.written, rig.plan.slot_count() * 8);
        assert_eq!(rig.run(3, &inputs, 9 << 8), 0);
        inputs[2] = 7 << 8;
        assert_eq!(rig.run(3, &inputs, 9 << 8), 1);
        assert_eq!(rig.written, 8);
        // another shape changes extents and lengths, but not everything
        assert!(rig.run(4, &inputs, 9 << 8) > 0);
        assert!(rig.written < rig.plan.slot_count() * 8);
    }

    #[test]
    fn another_pointer_writes_the_tensor_maps_of_what_lies_there() {
        let mut rig = Rig::of(2, DType::F16);
        assert!(rig.plan.steps.iter().all(|s| s.first_slot % 8 == 0));
        let mut inputs = vec![1 << 8, 2 << 8, 3 << 8];
        rig.run(3, &inputs, 9 << 8);
        let slots = |rig: &Rig, at: usize| rig.block[at * 8..][..MAP_SLOTS * 8].to_vec();
        let [first, second] = [0, 1].map(|i| rig.plan.steps[i].first_slot);
        let before = [slots(&rig, first), slots(&rig, second)];
        assert!(before.iter().all(|map| map.iter().any(|b| *b != 0)));
        inputs[0] = 7 << 8;
        assert_eq!(rig.run(3, &inputs, 9 << 8), 1);
        assert_ne!(slots(&rig, first), before[0]);
        assert_eq!(slots(&rig, second), before[1], "of the temporary");
        assert!(rig.written < rig.plan.steps[0].slots * 8);
        inputs[0] += 2;
        rig.run(3, &inputs, 9 << 8);
        assert_eq!(slots(&rig, first), [0; MAP_SLOTS * 8], "there is none");
        // lines of the other factors do not run along the reduction
        assert_eq!(slots(&rig, first + MAP_SLOTS), [0; MAP_SLOTS * 8]);
    }

    #[test]
    fn what_lies_far_apart_is_written_in_pieces() {
        let mut rig = Rig::new(200);
        assert!(rig.plan.slot_count() > GAP + 100);
        let mut inputs: Vec<u64> = (0..201).map(|i| i << 8).collect();
        rig.run(3, &inputs, 1 << 20);
        inputs[0] += 1 << 30;
        assert_eq!(rig.run(3, &inputs, 1 << 21), 2);
        assert_eq!(rig.written, 16);
    }
}
