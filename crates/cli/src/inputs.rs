//! The inputs of a run: which shapes they have, and what fills those that are not given.
//!
//! Extents come from three places, which must agree: files (`--input`), shapes (`--shapes`) and dims (`--dims`). What one
//! of them says about a symbol holds for every input that mentions it. A symbol about which none says anything is an
//! error that names it; nothing is guessed. [`Extents`] keeps the books of that.
//!
//! Inputs that are not given are filled as `content` says; elements that the model uses as extents hold those extents.

mod extents;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use bespoke::ir::{Constant, Graph, SymbolOrigin, SymbolTable, TensorType, ValueId};
use bespoke::onnx::error::nearest;

use crate::content::{Content, fill};
use crate::failure::Failure;
use crate::npy;
use crate::shapes::{Dims, Shapes};

pub(crate) use self::extents::Extents;

/// One `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given(pub(crate) String);

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Given, String> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                Ok(Given(text.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is no input: write NAME=FILE.npy or NAME=FILE.pb"
            )),
        }
    }
}

impl Given {
    /// Name and file, for these inputs: a name that has a `=` of its own is recognised if it is one of theirs.
    fn parts<'a>(&'a self, ports: &[Port<'_>]) -> (&'a str, PathBuf) {
        let known = ports
            .iter()
            .filter_map(|p| self.0.strip_prefix(p.name)?.strip_prefix('='));
        match known.min_by_key(|file| file.len()) {
            Some(file) => (&self.0[..self.0.len() - file.len() - 1], file.into()),
            None => {
                let (name, file) = self.0.split_once('=').unwrap_or((&self.0, ""));
                (name, file.into())
            }
        }
    }
}

/// An input of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its type.
    pub(crate) ty: &'a TensorType,
}

impl Port<'_> {
    /// The inputs of a graph, in its order.
    pub(crate) fn of(graph: &Graph) -> Vec<Port<'_>> {
        let port = |&v: &ValueId| Port {
            name: &graph.value(v).name,
            ty: graph.ty(v),
        };
        graph.inputs().iter().map(port).collect()
    }
}

/// What the command line says about inputs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// `--input`.
    pub(crate) files: Vec<Given>,
    /// `--shapes`.
    pub(crate) shapes: Shapes,
    /// `--dims`.
    pub(crate) dims: Dims,
    /// `--seed`.
    pub(crate) seed: u64,
    /// Who gives the shapes, if not `--shapes`.
    pub(crate) shapes_by: Option<&'static str>,
}

/// Reads a tensor file by its ending.
///
/// # Errors
///
/// An unknown ending, or a file that cannot be read.
pub(crate) fn read_file(path: &std::path::Path) -> Result<Arc<Constant>, Failure> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => npy::read(path),
        Some("pb") => crate::dataset::read_tensor(path),
        _ => Err(Failure::usage(
            format!(
                "{}: the kind of file is not known by its ending",
                path.display()
            ),
            "give a .npy file (NumPy) or a .pb file (ONNX tensor)",
        )),
    }
}

/// The position of the input that is meant, or a failure with the nearest name.
pub(crate) fn position(ports: &[Port<'_>], name: &str, flag: &str) -> Result<usize, Failure> {
    ports.iter().position(|p| p.name == name).ok_or_else(|| {
        let known = ports.iter().map(|p| p.name);
        let help = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("its inputs are {}", known.collect::<Vec<_>>().join(", ")),
        };
        Failure::usage(format!("{flag}: the model has no input `{name}`"), help)
    })
}

/// The inputs of a run, in graph order.
///
/// # Errors
///
/// A name that is not an input, a file that cannot be read, a type, rank or extent that the model does not take, extents
/// that contradict each other or are missing, and too little memory.
pub(crate) fn resolve(
    ports: &[Port<'_>],
    symbols: &SymbolTable,
    wanted: &Wanted,
) -> Result<Vec<Arc<Constant>>, Failure> {
    resolve_with(ports, symbols, wanted, Content::Random)
}

/// [`resolve`] with a choice of what fills the inputs that are not given.
pub(crate) fn resolve_with(
    ports: &[Port<'_>],
    symbols: &SymbolTable,
    wanted: &Wanted,
    content: Content,
) -> Result<Vec<Arc<Constant>>, Failure> {
    let Chosen {
        extents,
        tensors,
        shapes,
    } = choose(ports, symbols, wanted)?;
    let mut filled = Vec::with_capacity(ports.len());
    for (at, (port, (tensor, shape))) in ports
        .iter()
        .zip(tensors.into_iter().zip(shapes))
        .enumerate()
    {
        filled.push(match tensor {
            Some(tensor) => tensor,
            None => {
                let feed = feeds(symbols, &extents, at);
                fill(
                    port,
                    &shape.unwrap_or_default(),
                    wanted.seed,
                    content,
                    &feed,
                )?
            }
        });
    }
    Ok(filled)
}

/// What the command line says about the inputs, before any content is made up.
pub(crate) struct Chosen<'a> {
    extents: Extents<'a>,
    tensors: Vec<Option<Arc<Constant>>>,
    shapes: Vec<Option<Vec<i64>>>,
}

/// Everything that [`resolve`] may refuse but for the lack of memory.
///
/// # Errors
///
/// Those of [`resolve`].
pub(crate) fn choose<'a>(
    ports: &[Port<'_>],
    symbols: &'a SymbolTable,
    wanted: &Wanted,
) -> Result<Chosen<'a>, Failure> {
    let by = wanted.shapes_by.unwrap_or("--shapes");
    let mut extents = Extents::new(symbols, &wanted.dims)?;
    let mut tensors: Vec<Option<Arc<Constant>>> = vec![None; ports.len()];
    let mut shapes: Vec<Option<Vec<i64>>> = vec![None; ports.len()];
    for given in &wanted.files {
        let (name, path) = given.parts(ports);
        let at = position(ports, name, "--input")?;
        let port = &ports[at];
        let tensor = read_file(&path)?;
        if tensor.dtype() != port.ty.dtype {
            let message = format!(
                "input `{name}` is {} in {}, the model takes {}",
                tensor.dtype(),
                path.display(),
                port.ty.dtype
            );
            return Err(Failure::usage(
                message,
                format!("store the array as {}", port.ty.dtype),
            ));
        }
        extents.learn(port, tensor.dims(), &path.display().to_string())?;
        if tensors[at].replace(tensor).is_some() {
            return Err(Failure::usage(
                format!("--input: `{name}` is given twice"),
                "give it once",
            ));
        }
    }
    for shape in &wanted.shapes.0 {
        let mut meant: Vec<usize> = (0..ports.len())
            .filter(|&i| shape.names(ports[i].name))
            .collect();
        if meant.is_empty() {
            meant.push(position(ports, &shape.name, by)?);
        }
        for at in meant {
            extents.learn(&ports[at], &shape.dims, by)?;
            shapes[at] = Some(shape.dims.clone());
        }
    }
    let mut missing: Vec<String> = Vec::new();
    for (port, (tensor, shape)) in ports.iter().zip(tensors.iter().zip(&mut shapes)) {
        if tensor.is_some() || shape.is_some() {
            continue;
        }
        let mut dims = Vec::new();
        for dim in &port.ty.dims {
            match extents.value(dim) {
                Ok(value) => dims.push(value),
                Err(names) => missing.extend(names),
            }
        }
        *shape = Some(dims);
    }
    if !missing.is_empty() {
        let mut seen = Vec::new();
        missing.retain(|name| {
            !seen.contains(name) && {
                seen.push(name.clone());
                true
            }
        });
        let inputs: Vec<String> = ports
            .iter()
            .map(|p| format!("{}: {}", p.name, p.ty.display(symbols)))
            .collect();
        let flags: Vec<String> = missing.iter().map(|name| format!("{name}=…")).collect();
        return Err(Failure::usage(
            format!(
                "extents are missing: {} (inputs are {})",
                missing.join(", "),
                inputs.join(", ")
            ),
            format!(
                "give them with --dims {}, with --shapes, or all as 1 with --dims '*=1'",
                flags.join(",")
            ),
        ));
    }
    Ok(Chosen {
        extents,
        tensors,
        shapes,
    })
}

/// The shapes of a run's inputs that are not given as files, in graph order.
///
/// # Errors
///
/// Those of [`choose`].
pub(crate) fn shapes(
    ports: &[Port<'_>],
    symbols: &SymbolTable,
    wanted: &Wanted,
) -> Result<Vec<Vec<i64>>, Failure> {
    let chosen = choose(ports, symbols, wanted)?;
    let shapes = chosen.shapes.into_iter();
    Ok(shapes.map(Option::unwrap_or_default).collect())
}

/// The elements of an input that the model uses as extents: element and value.
fn feeds(symbols: &SymbolTable, extents: &Extents<'_>, at: usize) -> Vec<(usize, i64)> {
    let element = |origin: &SymbolOrigin| match origin {
        SymbolOrigin::InputValue { input, element } if *input as usize == at => {
            Some(*element as usize)
        }
        _ => None,
    };
    let value = |index: usize| extents.of(index).unwrap_or(1);
    symbols
        .iter()
        .filter_map(|(id, s)| Some((element(&s.origin)?, value(id.index()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elements::floats;
    use bespoke::ErrorKind;
    use bespoke::ir::sym::Symbol;
    use bespoke::ir::{DType, SymInt};

    /// `x: f32[N,3,W]`, `y: i64[N]`, `sizes: i64[2]` whose elements are symbols.
    fn model() -> (SymbolTable, Vec<(&'static str, TensorType)>) {
        let mut symbols = SymbolTable::new();
        let n = symbols.add(Symbol::new(
            "N",
            SymbolOrigin::InputDim { input: 0, axis: 0 },
        ));
        let w = symbols.add(Symbol::new(
            "W",
            SymbolOrigin::InputDim { input: 0, axis: 2 },
        ));
        symbols.add(Symbol::new(
            "sizes[1]",
            SymbolOrigin::InputValue {
                input: 2,
                element: 1,
            },
        ));
        let n = SymInt::symbol(n);
        let x = TensorType::new(
            DType::F32,
            vec![n.clone(), SymInt::constant(3), SymInt::symbol(w)],
        );
        let y = TensorType::new(DType::I64, vec![n]);
        (
            symbols,
            vec![
                ("x", x),
                ("y", y),
                ("sizes", TensorType::fixed(DType::I64, &[2])),
            ],
        )
    }

    fn run(wanted: &Wanted) -> Result<Vec<Arc<Constant>>, Failure> {
        let (symbols, types) = model();
        let ports: Vec<Port<'_>> = types.iter().map(|(name, ty)| Port { name, ty }).collect();
        resolve(&ports, &symbols, wanted)
    }

    fn wanted(shapes: &str, dims: &str) -> Wanted {
        Wanted {
            shapes: if shapes.is_empty() {
                Shapes::default()
            } else {
                shapes.parse().unwrap()
            },
            dims: if dims.is_empty() {
                Dims::default()
            } else {
                dims.parse().unwrap()
            },
            ..Wanted::default()
        }
    }

    #[test]
    fn a_symbol_holds_for_all_inputs_whoever_gives_it() {
        for (shapes, dims) in [
            ("x:2x3x5", ""),
            ("", "N=2,W=5"),
            ("x:2x3x5", "N=2"),
            ("y:2", "W=5"),
        ] {
            let inputs = run(&wanted(shapes, dims)).unwrap();
            assert_eq!(inputs[0].dims(), [2, 3, 5], "{shapes} {dims}");
            assert_eq!(inputs[1].dims(), [2]);
        }
        assert_eq!(run(&wanted("", "*=1")).unwrap()[0].dims(), [1, 3, 1]);
        assert_eq!(run(&wanted("", "N=0,W=5")).unwrap()[0].elements(), 0);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let cases = [
            ("", "", "extents are missing: N, W"),
            ("", "N=2", "extents are missing: W"),
            ("x:2x3x5", "N=3", "`N` is 3 by --dims and 2 by --shapes"),
            (
                "x:2x3",
                "",
                "input `x` has rank 2 by --shapes, the model takes f32[N,3,W]",
            ),
            ("x:2x4x5", "", "axis 1 has extent 4"),
            ("z:2", "", "no input `z`"),
            ("", "M=2", "no symbol `M`"),
        ];
        for (shapes, dims, message) in cases {
            let failure = run(&wanted(shapes, dims)).unwrap_err();
            assert!(
                failure.message.contains(message),
                "{failure} (wanted: {message})"
            );
            assert_eq!(failure.kind, ErrorKind::Usage.into());
            assert!(!failure.help.is_empty());
        }
        let failure = run(&wanted("size:2", "*=1")).unwrap_err();
        assert_eq!(failure.help, "did you mean `sizes`?");
    }

    #[test]
    fn a_shape_that_no_memory_holds_is_an_error() {
        for dims in [
            "N=4611686018427387904,W=5",
            "N=1099511627776,W=1099511627776",
        ] {
            assert_eq!(
                run(&wanted("", dims)).unwrap_err().kind,
                ErrorKind::OutOfMemory.into(),
                "{dims}"
            );
        }
    }

    #[test]
    fn content_is_the_same_every_time_and_in_range() {
        let first = run(&wanted("x:4x3x100", "sizes[1]=7")).unwrap();
        assert_eq!(first, run(&wanted("x:4x3x100", "sizes[1]=7")).unwrap());
        let other = run(&Wanted {
            seed: 1,
            ..wanted("x:4x3x100", "")
        })
        .unwrap();
        assert_ne!(first[0], other[0]);
        let x = floats(&first[0]);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let deviation = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt();
        assert!(
            mean.abs() < 0.06 && (deviation - 0.5).abs() < 0.05,
            "{mean} {deviation}"
        );
        assert!(floats(&first[1]).iter().all(|&v| v == 0.0 || v == 1.0));
        assert_eq!(floats(&first[2])[1], 7.0, "an element that is an extent");
        assert_eq!(floats(&other[2])[1], 1.0);
    }

    #[test]
    fn content_for_timing_is_small_and_masks_nothing() {
        let (symbols, types) = model();
        let ports: Vec<Port<'_>> = types.iter().map(|(name, ty)| Port { name, ty }).collect();
        let inputs = resolve_with(&ports, &symbols, &wanted("x:4x3x100", ""), Content::Even);
        let inputs = inputs.unwrap();
        let x = floats(&inputs[0]);
        assert!(x.iter().all(|v| v.abs() <= 0.175) && x.iter().any(|v| v.abs() > 0.17));
        assert!(x.iter().sum::<f64>().abs() / (x.len() as f64) < 0.02);
        assert!(floats(&inputs[1]).iter().all(|&v| v == 1.0));
    }

    #[test]
    fn files_give_type_and_extents() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, tensor: Arc<Constant>| {
            let path = dir.path().join(name);
            npy::write(&path, &tensor).unwrap();
            path
        };
        let x = Constant::new(DType::F32, vec![1, 3, 2], vec![0; 24].into()).unwrap();
        let path = write("x=1.npy", x.clone());
        let with = |given: String| Wanted {
            files: vec![given.parse().unwrap()],
            ..Wanted::default()
        };
        let inputs = run(&with(format!("x={}", path.display()))).unwrap();
        assert_eq!((inputs[0].clone(), inputs[1].dims()), (x, &[1][..]));
        let failure = run(&with(format!("y={}", path.display()))).unwrap_err();
        assert!(
            failure.message.contains("is f32 in") && failure.message.contains("takes i64"),
            "{failure}"
        );
        let failure = run(&with("x=absent.npy".into())).unwrap_err();
        assert!(
            failure.message.contains("cannot read absent.npy"),
            "{failure}"
        );
        let failure = run(&with("x=absent.txt".into())).unwrap_err();
        assert!(failure.help.contains(".npy"), "{failure}");
        assert!("x".parse::<Given>().is_err() && "=f".parse::<Given>().is_err());
    }
}
