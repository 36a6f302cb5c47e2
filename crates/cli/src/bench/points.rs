//! From the command line to points: which shapes are measured, and which one `static` is tuned for.
//!
//! Everything is checked here, before a device is opened. Least and largest shapes bound what is measured; the runtime
//! serves every shape and has no other use for them.

use std::sync::Arc;

use bespoke::ir::{Constant, SymbolTable};

use crate::content::Content;
use crate::failure::Failure;
use crate::inputs::{Given, Port, Wanted, position, resolve_with};
use crate::shapes::{Dims, Shape, Shapes, show};

/// What the command line says about shapes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// `--input`.
    pub(crate) files: Vec<Given>,
    /// `--shapes`, one for each point.
    pub(crate) shapes: Vec<Shapes>,
    /// `--dims`, for every point.
    pub(crate) dims: Dims,
    /// `--seed`.
    pub(crate) seed: u64,
    /// `--min-shapes`.
    pub(crate) min: Option<Shapes>,
    /// `--opt-shapes`.
    pub(crate) opt: Option<Shapes>,
    /// `--max-shapes`.
    pub(crate) max: Option<Shapes>,
}

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Points {
    /// Names of the inputs, in graph order.
    pub(crate) names: Vec<String>,
    /// The inputs of each point, in graph order.
    pub(crate) inputs: Vec<Vec<Arc<Constant>>>,
    /// The shapes that `static` is tuned for: those that were asked for, or the first point's.
    pub(crate) opt: Shapes,
}

/// A bound on extents.
struct Bound<'a> {
    flag: &'static str,
    shapes: &'a Shapes,
    /// Whether an extent breaks it, and how that is said.
    breaks: fn(i64, i64) -> bool,
    word: &'static str,
}

/// The points.
///
/// # Errors
///
/// What [`resolve_with`] refuses at any of the points, bounds on inputs that the model has not or of another rank, and a
/// shape that lies outside the bounds.
pub(crate) fn resolve(
    ports: &[Port<'_>],
    symbols: &SymbolTable,
    asked: &Asked,
) -> Result<Points, Failure> {
    let at = |shapes: &Shapes, files: &[Given]| {
        let wanted = Wanted {
            files: files.to_vec(),
            shapes: shapes.clone(),
            dims: asked.dims.clone(),
            seed: asked.seed,
            shapes_by: None,
        };
        resolve_with(ports, symbols, &wanted, Content::Even)
    };
    let nothing = Shapes::default();
    // As with trtexec, the shape to tune for is measured if no other is named.
    let measured = match (asked.shapes.as_slice(), &asked.opt) {
        ([], Some(opt)) => std::slice::from_ref(opt),
        ([], None) => std::slice::from_ref(&nothing),
        (shapes, _) => shapes,
    };
    let bounds = bounds(asked);
    for bound in &bounds {
        check_bound(bound, ports)?;
    }
    let inputs: Vec<Vec<Arc<Constant>>> = measured
        .iter()
        .map(|shapes| at(shapes, &asked.files))
        .collect::<Result<_, _>>()?;
    let named = |tensors: &[Arc<Constant>]| {
        let shapes = ports.iter().zip(tensors).map(|(port, tensor)| Shape {
            name: port.name.to_owned(),
            dims: tensor.dims().to_vec(),
        });
        Shapes(shapes.collect())
    };
    for (tensors, given) in inputs.iter().zip(measured) {
        let flag = if asked.shapes.is_empty() && asked.opt.as_ref() == Some(given) {
            "--opt-shapes"
        } else {
            "--shapes"
        };
        within(&named(tensors), flag, &bounds)?;
    }
    let opt = match (&asked.opt, inputs.first()) {
        (Some(opt), _) => {
            // Files have the shapes that are measured, which this one may differ from.
            let opt = named(&at(opt, &[])?);
            within(&opt, "--opt-shapes", &bounds)?;
            opt
        }
        (None, Some(first)) => named(first),
        (None, None) => nothing,
    };
    Ok(Points {
        names: ports.iter().map(|p| p.name.to_owned()).collect(),
        inputs,
        opt,
    })
}

fn bounds(asked: &Asked) -> Vec<Bound<'_>> {
    let min = asked.min.as_ref().map(|shapes| Bound {
        flag: "--min-shapes",
        shapes,
        breaks: |extent, bound| extent < bound,
        word: "below",
    });
    let max = asked.max.as_ref().map(|shapes| Bound {
        flag: "--max-shapes",
        shapes,
        breaks: |extent, bound| extent > bound,
        word: "above",
    });
    min.into_iter().chain(max).collect()
}

/// Names and ranks of a bound are those of the model's inputs.
fn check_bound(bound: &Bound<'_>, ports: &[Port<'_>]) -> Result<(), Failure> {
    for shape in &bound.shapes.0 {
        let mut meant: Vec<&Port<'_>> = ports.iter().filter(|p| shape.names(p.name)).collect();
        if meant.is_empty() {
            meant.push(&ports[position(ports, &shape.name, bound.flag)?]);
        }
        for port in meant {
            let rank = port.ty.rank();
            if shape.dims.len() != rank {
                return Err(Failure::usage(
                    format!(
                        "{}: input `{}` has rank {rank}, {} has {} extents",
                        bound.flag,
                        port.name,
                        show(&shape.dims),
                        shape.dims.len()
                    ),
                    format!("give it {rank} extents"),
                ));
            }
        }
    }
    Ok(())
}

/// A shape lies within the bounds.
fn within(shapes: &Shapes, flag: &str, bounds: &[Bound<'_>]) -> Result<(), Failure> {
    for bound in bounds {
        for Shape { name, dims } in &shapes.0 {
            let Some(limit) = bound.shapes.0.iter().rfind(|s| s.names(name)) else {
                continue;
            };
            let pairs = dims.iter().zip(&limit.dims).enumerate();
            for (axis, (&extent, &at)) in pairs {
                if (bound.breaks)(extent, at) {
                    return Err(Failure::usage(
                        format!(
                            "input `{name}` is {} by {flag}: axis {axis} has extent {extent}, {} {at} of {} ({})",
                            show(dims),
                            bound.word,
                            bound.flag,
                            show(&limit.dims)
                        ),
                        format!(
                            "measure shapes between --min-shapes and --max-shapes, or change {}",
                            bound.flag
                        ),
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke::ir::sym::Symbol;
    use bespoke::ir::{DType, SymInt, SymbolOrigin, TensorType};

    /// `x: f32[N,4]`, `mask: i64[N]`.
    fn points(asked: Asked) -> Result<Points, Failure> {
        let mut symbols = SymbolTable::new();
        let n = symbols.add(Symbol::new(
            "N",
            SymbolOrigin::InputDim { input: 0, axis: 0 },
        ));
        let n = SymInt::symbol(n);
        let x = TensorType::new(DType::F32, vec![n.clone(), SymInt::constant(4)]);
        let mask = TensorType::new(DType::I64, vec![n]);
        let ports = [
            Port { name: "x", ty: &x },
            Port {
                name: "mask",
                ty: &mask,
            },
        ];
        resolve(&ports, &symbols, &asked)
    }

    fn shapes(text: &str) -> Option<Shapes> {
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    fn asked(points: &[&str], min: &str, opt: &str, max: &str) -> Asked {
        Asked {
            shapes: points.iter().filter_map(|p| shapes(p)).collect(),
            min: shapes(min),
            opt: shapes(opt),
            max: shapes(max),
            ..Asked::default()
        }
    }

    fn rows(points: &Points) -> Vec<i64> {
        points
            .inputs
            .iter()
            .map(|tensors| tensors[0].dims()[0])
            .collect()
    }

    #[test]
    fn every_shapes_flag_is_a_point_and_static_is_tuned_for_the_first() {
        let found = points(asked(&["x:2x4", "mask:7"], "", "", "")).unwrap();
        assert_eq!(rows(&found), [2, 7]);
        assert_eq!(found.opt, "x:2x4,mask:2".parse().unwrap());
        assert_eq!(found.names, ["x", "mask"]);
        let found = points(asked(&["x:2x4", "x:3x4"], "", "x:5x4", "")).unwrap();
        assert_eq!(
            (rows(&found), found.opt),
            (vec![2, 3], "x:5x4,mask:5".parse().unwrap())
        );
    }

    #[test]
    fn the_shape_to_tune_for_is_measured_if_no_other_is_named() {
        assert_eq!(
            rows(&points(asked(&[], "x:1x4", "x:5x4", "x:8x4")).unwrap()),
            [5]
        );
        let missing = points(asked(&[], "", "", "")).unwrap_err();
        assert!(
            missing.message.contains("extents are missing: N"),
            "{missing}"
        );
    }

    #[test]
    fn a_shape_outside_the_bounds_is_named() {
        let ok = points(asked(&["x:1x4", "x:8x4"], "*:1x4", "", "x:8x4"));
        assert!(ok.is_err(), "`*` also means the mask, which has one extent");
        points(asked(&["x:1x4", "x:8x4"], "x:1x4", "", "x:8x4")).unwrap();
        for (point, min, opt, max, words) in [
            (
                "x:9x4",
                "",
                "",
                "x:8x4",
                "input `x` is 9x4 by --shapes: axis 0 has extent 9, above 8 of --max-shapes (8x4)",
            ),
            (
                "x:1x4",
                "mask:2",
                "",
                "",
                "input `mask` is 1 by --shapes: axis 0 has extent 1, below 2 of --min-shapes (2)",
            ),
            ("x:2x4", "", "x:9x4", "x:8x4", "by --opt-shapes"),
            ("", "", "x:9x4", "x:8x4", "by --opt-shapes"),
            (
                "x:2x4",
                "x:1",
                "",
                "",
                "--min-shapes: input `x` has rank 2, 1 has 1 extents",
            ),
            (
                "x:2x4",
                "",
                "",
                "y:1",
                "--max-shapes: the model has no input `y`",
            ),
        ] {
            let failure = points(asked(&[point], min, opt, max)).unwrap_err();
            assert!(
                failure.message.contains(words),
                "{failure} (wanted: {words})"
            );
            assert!(!failure.help.is_empty());
        }
    }
}
