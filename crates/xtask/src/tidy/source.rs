//! Rust source without its comments and literals.
//!
//! Rules look for words of the language; the same words in prose or in a string mean nothing. [`code`] blanks both and
//! keeps every line where it was. It knows what the lexical grammar of Rust needs for that: nested block comments, raw
//! strings, escapes, and that `'` begins a character or a lifetime.

/// The source with comments and the inside of literals replaced by blanks; line breaks stay.
pub(super) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => block_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if starts_word(bytes, at) => raw_end(bytes, at + 1).unwrap_or(at),
            b'\'' => character_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Whole literals and comments are blanked, so no character is cut; what is left is valid as it was.
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a word of code begins here; `r` inside a name is no raw string, but `br"…"` and `cr"…"` are.
fn starts_word(bytes: &[u8], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).map(|i| bytes[i]);
    let part = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    !part(before(1)) || (matches!(before(1), Some(b'b' | b'c')) && !part(before(2)))
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |n| at + n)
}

fn block_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `#…"…"#…` if that is what begins here.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at..].iter().take_while(|b| **b == b'#').count();
    let start = at + hashes;
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let rest = &bytes[start + 1..];
    let inside = rest
        .windows(end.len())
        .position(|w| w == end)
        .unwrap_or(rest.len());
    Some((start + 1 + inside + end.len()).min(bytes.len()))
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes.get(at + 3..)?.iter().position(|b| *b == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character, of up to four bytes, then the closing quote.
    let width = match bytes.get(at + 1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

/// Whether `word` stands in the line as a whole word.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        !part(line[..at].chars().next_back()) && !part(line[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left, with runs of blanks shortened to one.
    fn left(source: &str) -> String {
        code(source)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn comments_vanish() {
        assert_eq!(left("a // b\nc /* d /* e */ f */ g"), "a c g");
        assert_eq!(left("//! a\n/// b\nc"), "c");
    }

    #[test]
    fn literals_vanish() {
        assert_eq!(left(r#"a "b\"c" d"#), "a d");
        assert_eq!(left(r###"a r#"b "c" d"# e"###), "a e");
        assert_eq!(left(r#"a br"b\" c"#), "a b c");
        assert_eq!(left(r"x '\'' y 'ä' z '\u{41}' w"), "x y z w");
    }

    #[test]
    fn lifetimes_and_names_stay() {
        assert_eq!(
            left("fn f<'a>(r: &'a str, for_: &'static u8)"),
            "fn f<'a>(r: &'a str, for_: &'static u8)"
        );
        assert_eq!(left("var\"x\""), "var");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let source = "a\n/* b\nc */ d\n\"e\nf\" g\n";
        let kept = code(source);
        assert_eq!(kept.lines().count(), source.lines().count());
        assert_eq!(kept.lines().nth(2).unwrap().trim(), "d");
        assert_eq!(kept.lines().nth(4).unwrap().trim(), "g");
    }

    #[test]
    fn an_end_without_a_close_is_no_panic() {
        for source in ["\"a", "/* a", "r#\"a\"", "'", "'\\", "\"\\", "r#", "b'\\x"] {
            code(source);
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("let x = unsafe {", "unsafe"));
        assert!(!has_word("allow(unsafe_code)", "unsafe"));
    }
}
