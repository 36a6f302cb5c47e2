//! The way of every element through a tile, as `kernels/across.cuh` goes it, and when tiles are chosen.

use std::collections::{BTreeMap, BTreeSet};

use bespoke_device::Arch;

use super::*;
use crate::spec::{KernelSpec, Template};
use crate::view::Strided;

/// Where an element of a tile lies in shared memory: `place` of the kernel.
fn place(t: &Across, size: i64, row: i64, column: i64) -> i64 {
    let chunk = t.read.max(4 / size);
    let chunks = t.rows / chunk;
    column * t.rows + ((row / chunk) ^ (column / t.width % chunks)) * chunk + row % chunk
}

/// Row and column of load `n`: `LOADED` of the kernel.
fn loaded(t: &Across, n: i64) -> (i64, i64) {
    let a_column = t.rows / t.read;
    (n % a_column * t.read, n / a_column)
}

/// Row and column of store `n`: `STORED` of the kernel.
fn stored(t: &Across, n: i64) -> (i64, i64) {
    let a_row = t.rows / t.width;
    let column = n % a_row * t.width + n / (a_row * t.rows) * t.rows;
    (n / a_row % t.rows, column)
}

/// The first position of tile `item`: `LOCATE` of the kernel.
fn locate(t: &Across, extents: &[i64], item: i64) -> Vec<i64> {
    let mut rest = item;
    let mut position = vec![0; extents.len()];
    for axis in (0..extents.len()).rev() {
        let per = match axis {
            a if a == t.axis => t.rows,
            a if a + 1 == extents.len() => t.columns,
            _ => 1,
        };
        let count = (extents[axis] - 1) / per + 1;
        position[axis] = rest % count * per;
        rest /= count;
    }
    position
}

/// Checks that every result is written once, with the elements of its own position, and that vectors are whole.
fn check(of: &Pointwise, args: &Args<'_>, t: &Across) {
    let extents = args.ints("d", of.rank);
    let last = of.rank - 1;
    let y = Strided::of(args, "y0", of.rank);
    let inside = |p: &[i64]| p[t.axis] < extents[t.axis] && p[last] < extents[last];
    let at = |corner: &[i64], row: i64, column: i64| {
        let mut p = corner.to_vec();
        p[t.axis] += row;
        p[last] += column;
        p
    };
    let elements = t.rows * t.columns;
    assert_eq!(elements % (THREADS * t.read.max(t.width)), 0);
    let mut written = BTreeSet::new();
    for item in 0..t.count(of, args) {
        let corner = locate(t, &extents, item);
        let mut tiles = Vec::new();
        for (i, size) in t.operands(of) {
            let x = Strided::of(args, &format!("x{i}"), of.rank);
            let mut tile = BTreeMap::new();
            for n in 0..elements / t.read {
                let (row, column) = loaded(t, n);
                let p = at(&corner, row, column);
                if !inside(&p) {
                    continue;
                }
                let (from, to) = (x.at(&p), place(t, size, row, column));
                assert_eq!((from % t.read, to % t.read), (0, 0));
                assert!(inside(&at(&p, t.read - 1, 0)), "a vector beyond the edge");
                for r in 0..t.read {
                    assert_eq!(x.at(&at(&p, r, 0)), from + r);
                    assert!((0..elements).contains(&(to + r)));
                    assert_eq!(tile.insert(to + r, from + r), None);
                }
            }
            tiles.push((x, size, tile));
        }
        for n in 0..elements / t.width {
            let (row, column) = stored(t, n);
            let p = at(&corner, row, column);
            if !inside(&p) {
                continue;
            }
            assert_eq!(y.at(&p) % t.width, 0);
            for v in 0..t.width {
                let p = at(&p, 0, v);
                assert!(inside(&p) && written.insert(y.at(&p)));
                for (x, size, tile) in &tiles {
                    let from = tile.get(&(place(t, *size, row, column) + v * t.rows));
                    assert_eq!(from, Some(&x.at(&p)), "{p:?}");
                }
            }
        }
    }
    assert_eq!(written.len() as i64, extents.iter().product::<i64>());
}

/// The tiles of an exact kernel that go across.
fn tiles(s: &Sample, args: &Args<'_>, props: &DeviceProps) -> Vec<Across> {
    let spec = KernelSpec::exact(s.template.clone(), args, props);
    spec.tiles(args, props)
        .filter_map(|t| Across::of(&t))
        .collect()
}

#[test]
fn every_result_is_written_once_from_its_own_place() {
    let mut seen = BTreeSet::new();
    for seed in 0..80 {
        // few multiprocessors have wide tiles, many narrow ones
        let arch = if seed % 2 == 0 {
            Arch::sm(75)
        } else {
            Arch::sm(90)
        };
        let props = DeviceProps::preset(arch);
        let (of, s) = sample(&mut Rng::new(seed));
        let (params, row) = (of.params(), s.row());
        let args = Args::new(&params, &row);
        let all = tiles(&s, &args, &props);
        assert!(!all.is_empty(), "{}", of.describe());
        for t in [all.first(), all.last()].into_iter().flatten() {
            check(&of, &args, t);
            seen.insert((t.read, t.width));
        }
    }
    for pair in [(8, 8), (4, 4), (2, 2), (1, 1)] {
        assert!(seen.contains(&pair), "{pair:?} {seen:?}");
    }
    assert!(seen.iter().any(|(read, width)| read < width));
    assert!(seen.iter().any(|(read, width)| read > width));
}

/// The largest number of 4-byte words that threads which access shared memory at once want of one bank.
fn conflicts(addresses: &[(i64, i64)]) -> usize {
    let mut banks: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for &(byte, bytes) in addresses {
        for word in byte / 4..=(byte + bytes - 1) / 4 {
            banks.entry(word % 32).or_default().insert(word);
        }
    }
    banks.values().map(BTreeSet::len).max().unwrap_or(0)
}

#[test]
fn threads_meet_different_banks() {
    for (size, widest) in [(1, 8), (2, 8), (4, 4), (8, 2)] {
        for (read, width) in [(widest, widest), (widest, 1), (1, widest), (1, 1)] {
            let rows = LINE / size;
            let t = Across {
                axis: 0,
                crossing: 1,
                rows,
                columns: 2 * rows,
                read,
                width,
            };
            let vectors = rows * t.columns / read.max(width);
            let mut worst = 0;
            for warp in 0..vectors / 32 {
                let lanes = |bytes: i64| {
                    // of wider accesses, so many threads are served at once
                    let at_once = 32 * 4 / bytes.max(4);
                    (0..32 / at_once).map(move |part| {
                        let first = warp * 32 + part * at_once;
                        first..first + at_once
                    })
                };
                for part in lanes(size * read) {
                    let kept = part.map(|n| {
                        let (row, column) = loaded(&t, n);
                        (place(&t, size, row, column) * size, size * read)
                    });
                    worst = worst.max(conflicts(&kept.collect::<Vec<_>>()));
                }
                for part in lanes(size) {
                    for v in 0..width {
                        let taken = part.clone().map(|n| {
                            let (row, column) = stored(&t, n);
                            ((place(&t, size, row, column) + v * rows) * size, size)
                        });
                        worst = worst.max(conflicts(&taken.collect::<Vec<_>>()));
                    }
                }
            }
            // none where both sides move whole vectors
            let allowed = if read == width { 1 } else { 4 };
            assert!(
                worst <= allowed,
                "{size} bytes, {read} and {width}: {worst}"
            );
        }
    }
}

/// The tile of an exact kernel for `y[b, i, j] = x[b, j, i]`.
fn transpose(ty: DType, [b, i, j]: [i64; 3], arch: Arch) -> String {
    let of = Pointwise {
        rank: 3,
        outputs: vec![Expr::identity(ty)],
    };
    let mut args = Arguments::new(&of);
    let views = [("y0", [i * j, j, 1]), ("x0", [i * j, 1, i])];
    for (axis, d) in [b, i, j].into_iter().enumerate() {
        args.int(&format!("d{axis}"), d);
    }
    for (name, strides) in views {
        for (axis, s) in strides.into_iter().enumerate() {
            args.int(&format!("{name}_s{axis}"), s);
        }
    }
    let s = args.finish(Arc::new(of.clone()), 0.0);
    let (params, row) = (of.params(), s.row());
    let args = Args::new(&params, &row);
    let props = DeviceProps::preset(arch);
    let spec = KernelSpec::exact(s.template.clone(), &args, &props);
    let grid = spec.template.geometry(&spec.tile, Some(&args), &props).grid;
    format!("{} grid={}", spec.tile, grid[0])
}

#[test]
fn tiles_are_chosen_where_they_save_bytes() {
    let hopper = Arch::sm(90);
    insta::assert_snapshot!(transpose(DType::F16, [1, 4096, 4096], hopper), @"ACROSS=1 COLUMNS=128 CROSSING=1 READ=8 ROWS=64 THREADS=256 WIDTH=8 grid=2048");
    insta::assert_snapshot!(transpose(DType::F32, [8, 768, 384], hopper), @"ACROSS=1 COLUMNS=128 CROSSING=1 READ=4 ROWS=32 THREADS=256 WIDTH=4 grid=576");
    insta::assert_snapshot!(transpose(DType::I64, [1, 1000, 1001], hopper), @"ACROSS=1 COLUMNS=128 CROSSING=1 READ=2 ROWS=16 THREADS=256 WIDTH=1 grid=504");
    insta::assert_snapshot!(transpose(DType::F16, [2, 77, 12288], hopper), @"ACROSS=1 COLUMNS=128 CROSSING=1 READ=1 ROWS=64 THREADS=256 WIDTH=8 grid=384");
    // a few cycles for each multiprocessor
    insta::assert_snapshot!(transpose(DType::F16, [1, 128, 128], hopper), @"ITEMS=1 THREADS=128 grid=16");
    // three channels to pixels and back: most of a tile would be empty, and steps are short
    insta::assert_snapshot!(transpose(DType::F16, [1, 640 * 640, 3], hopper), @"ITEMS=1 THREADS=128 grid=9600");
    insta::assert_snapshot!(transpose(DType::F16, [1, 3, 640 * 640], hopper), @"ITEMS=1 THREADS=128 grid=1200");
}

#[test]
fn what_is_not_known_is_not_taken_for_granted() {
    let props = DeviceProps::preset(Arch::sm(90));
    for seed in 0..200 {
        let (of, s) = sample(&mut Rng::new(seed));
        let (params, row) = (of.params(), s.row());
        let args = Args::new(&params, &row);
        // extents and strides but 1 are known to be even or not at all
        let even = |name: &str, v: i64| match v {
            0 | 1 if name.contains("_s") => Some(Baked::Exact(v)),
            v => (v % 2 == 0).then_some(Baked::Multiple(2)),
        };
        let spec = KernelSpec::specialised(s.template.clone(), &args, even, &props);
        let open = spec.tiles(&args, &props).filter_map(|t| Across::of(&t));
        for t in open {
            assert!(t.read.max(t.width) <= 2, "{}", spec);
        }
        // nothing at all
        let generic = KernelSpec::tuned(s.template.clone(), &args, &props);
        assert_eq!(
            generic.tiles(&args, &props).find_map(|t| Across::of(&t)),
            None
        );
    }
}
