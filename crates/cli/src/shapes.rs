//! Shapes and dims as the command line spells them.
//!
//! Shapes follow trtexec, `x:1x3x48x320,mask:1x80`, with `x:scalar` or `x:` for a scalar, quotes around names with commas
//! or colons of their own and `*` for any part of a name; Polygraphy's `x:[1,3,48,320]` is understood too. Dims bind the
//! model's symbols, `N=8,S=128`; the symbol `*` stands for all that are not given.

use std::str::FromStr;

/// One `NAME:1x3x48x320`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Name of an input, possibly with one `*`.
    pub(crate) name: String,
    /// Extents.
    pub(crate) dims: Vec<i64>,
}

/// The value of a flag that takes shapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shapes(pub(crate) Vec<Shape>);

/// The value of a flag that takes dims: symbol and extent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dims(pub(crate) Vec<(String, i64)>);

/// Cuts at `separator` outside quotes and brackets.
fn split(text: &str, separator: char) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut quote, mut depth, mut start) = (None, 0_u32, 0);
    for (at, c) in text.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '[' => depth += 1,
            None if c == ']' => {
                depth = depth.checked_sub(1).ok_or("a `]` without `[`")?;
            }
            None if c == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            None => {}
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    if depth > 0 {
        return Err("a `[` is not closed".into());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn unquote(name: &str) -> &str {
    ['\'', '"']
        .iter()
        .find_map(|q| name.strip_prefix(*q)?.strip_suffix(*q))
        .unwrap_or(name)
}

fn extent(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not an extent: write a whole number from 0 on");
    let value: i64 = text.trim().parse().map_err(|_| wrong())?;
    if value < 0 { Err(wrong()) } else { Ok(value) }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        // Names may contain colons (`Input:0`); extents may not.
        let parts = split(text, ':')?;
        let [name @ .., dims] = parts.as_slice() else {
            return Err("nothing is given".into());
        };
        let name =
            unquote(text[..name.iter().map(|n| n.len() + 1).sum::<usize>()].trim_end_matches(':'));
        if name.is_empty() || parts.len() < 2 {
            return Err(format!("`{text}` is not a shape: write NAME:1x3x48x320"));
        }
        let dims = dims.trim();
        let list = dims
            .strip_prefix('[')
            .map(|d| d.strip_suffix(']').unwrap_or(d));
        let dims = match (dims, list) {
            ("" | "scalar", _) => Vec::new(),
            (_, Some(inner)) if inner.trim().is_empty() => Vec::new(),
            (_, Some(inner)) => inner.split(',').map(extent).collect::<Result<_, _>>()?,
            (dims, None) => dims.split('x').map(extent).collect::<Result<_, _>>()?,
        };
        Ok(Shape {
            name: name.to_owned(),
            dims,
        })
    }
}

impl FromStr for Shapes {
    type Err = String;

    fn from_str(text: &str) -> Result<Shapes, String> {
        split(text, ',')?
            .into_iter()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Shapes)
    }
}

impl FromStr for Dims {
    type Err = String;

    fn from_str(text: &str) -> Result<Dims, String> {
        let one = |part: &str| {
            let wrong = || format!("`{part}` is not a dim: write NAME=8");
            let (name, value) = part.rsplit_once('=').ok_or_else(wrong)?;
            let name = unquote(name.trim());
            if name.is_empty() {
                Err(wrong())
            } else {
                Ok((name.to_owned(), extent(value)?))
            }
        };
        split(text, ',')?
            .into_iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Dims)
    }
}

impl Shape {
    /// Whether the name means this input.
    pub(crate) fn names(&self, input: &str) -> bool {
        match self.name.split_once('*') {
            // A name that has a star of its own is matched as it stands.
            Some(_) if self.name == input => true,
            Some((before, after)) => {
                input.len() >= before.len() + after.len()
                    && input.starts_with(before)
                    && input.ends_with(after)
            }
            None => self.name == input,
        }
    }
}

/// A list of extents as people write it: `1x3x48x320`, `scalar`.
pub(crate) fn show(dims: &[i64]) -> String {
    if dims.is_empty() {
        return "scalar".into();
    }
    dims.iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join("x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes(text: &str) -> Vec<(String, Vec<i64>)> {
        let Shapes(list) = text.parse().unwrap();
        list.into_iter().map(|s| (s.name, s.dims)).collect()
    }

    #[test]
    fn both_grammars_are_read() {
        assert_eq!(
            shapes("x:1x3x48x320,mask:1x80"),
            [
                ("x".into(), vec![1, 3, 48, 320]),
                ("mask".into(), vec![1, 80])
            ]
        );
        assert_eq!(
            shapes("x:[1, 3],y:[]"),
            [("x".into(), vec![1, 3]), ("y".into(), vec![])]
        );
        assert_eq!(
            shapes("a:scalar,b:"),
            [("a".into(), vec![]), ("b".into(), vec![])]
        );
        assert_eq!(shapes("'Input:0':2x2"), [("Input:0".into(), vec![2, 2])]);
        assert_eq!(shapes("Input:0:2x2"), [("Input:0".into(), vec![2, 2])]);
        assert_eq!(shapes("\"a,b\":0x4"), [("a,b".into(), vec![0, 4])]);
        for wrong in [
            "",
            "x",
            "x:1x",
            "x:-1",
            "x:1x3,",
            ":1",
            "x:[1",
            "'x:1",
            "x:1]",
            "x:9999999999999999999",
        ] {
            assert!(wrong.parse::<Shapes>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn dims_are_names_and_numbers() {
        let Dims(dims) = "N=8,'a b'=0,*=1".parse().unwrap();
        assert_eq!(dims, [("N".into(), 8), ("a b".into(), 0), ("*".into(), 1)]);
        for wrong in ["", "N", "N=", "=1", "N=-1", "N=x"] {
            assert!(wrong.parse::<Dims>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        let shape = |name: &str| Shape {
            name: name.into(),
            dims: vec![],
        };
        assert!(shape("past_*_key").names("past_3_key"));
        assert!(shape("*").names("x"));
        assert!(!shape("past_*").names("pas"));
        assert!(!shape("ab*ba").names("aba"));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(dims in prop::collection::vec(0i64..1 << 40, 0..6)) {
            prop_assert_eq!(shapes(&format!("x:{}", show(&dims))), [("x".to_owned(), dims)]);
        }

        #[test]
        fn no_text_is_too_strange(text in ".{0,40}") {
            let _ = text.parse::<Shapes>();
            let _ = text.parse::<Dims>();
        }
    }
}
