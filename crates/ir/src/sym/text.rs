//! The text form of size expressions: `2*N*S + floor(H/2) - 1`.
//!
//! ```text
//! sum     = ["-"] term { ("+" | "-") term }
//! term    = factor { ("*" | "mod") factor }           left to right
//! factor  = number | name | "(" sum ")"
//!         | ("floor" | "ceil") "(" ["-"] term "/" factor ")"
//!         | ("min" | "max") "(" sum { "," sum } ")"
//!         | "overflow" "(" ")" | "too_large" "(" ")"   an expression without a value
//! name    = letter or "_", then letters, digits, "_"   unless it is a word of the grammar
//!         | "`" any characters, with \` \\ \u{hex} "`"
//! ```
//!
//! [`parse`] of what [`SymInt::display`] prints gives the same expression.

use std::fmt::{self, Write};

use super::expr::{Atom, Extremum, Fault, Term, extremum};
use super::{SymInt, Symbol, SymbolId, SymbolOrigin, SymbolTable};

/// Names that must be quoted.
const WORDS: [&str; 7] = [
    "floor",
    "ceil",
    "min",
    "max",
    "mod",
    "overflow",
    "too_large",
];

/// Deepest nesting of parentheses that [`parse`] follows.
const MAX_NESTING: u32 = 200;

/// A [`SymInt`] to be printed with the names of a table.
#[derive(Clone, Copy, Debug)]
pub struct SymDisplay<'a> {
    value: &'a SymInt,
    table: Option<&'a SymbolTable>,
}

impl SymInt {
    /// Prints with the names of `table`; a symbol that is not of the table prints as its number, `s0`.
    pub fn display<'a>(&'a self, table: &'a SymbolTable) -> SymDisplay<'a> {
        SymDisplay {
            value: self,
            table: Some(table),
        }
    }
}

/// Prints symbols by number: `s0`, `s1`, …
impl fmt::Display for SymInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SymDisplay {
            value: self,
            table: None,
        }
        .fmt(f)
    }
}

impl fmt::Debug for SymInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SymDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (constant, terms) = match self.value.parts() {
            Ok(parts) => parts,
            Err(Fault::DivisionByZero) => return f.write_str("floor(1/0)"),
            Err(Fault::Overflow) => return f.write_str("overflow()"),
            Err(Fault::TooLarge) => return f.write_str("too_large()"),
        };
        for (index, Term { coeff, factors }) in terms.iter().enumerate() {
            match (index, *coeff < 0) {
                (0, false) => {}
                (0, true) => f.write_char('-')?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            if coeff.unsigned_abs() != 1 {
                write!(f, "{}*", coeff.unsigned_abs())?;
            }
            for (index, factor) in factors.iter().enumerate() {
                if index > 0 {
                    f.write_char('*')?;
                }
                self.write_atom(factor, f)?;
            }
        }
        match constant {
            _ if terms.is_empty() => write!(f, "{constant}"),
            0 => Ok(()),
            _ => write!(
                f,
                " {} {}",
                if constant < 0 { '-' } else { '+' },
                constant.unsigned_abs()
            ),
        }
    }
}

impl SymDisplay<'_> {
    fn of<'b>(&'b self, value: &'b SymInt) -> SymDisplay<'b> {
        SymDisplay {
            value,
            table: self.table,
        }
    }

    fn write_atom(&self, atom: &Atom, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match atom {
            Atom::Symbol(id) => match self.table.and_then(|table| table.get(*id)) {
                Some(symbol) => write_name(&symbol.name, f),
                None => write!(f, "{id}"),
            },
            Atom::FloorDiv(a, b) => self.write_division("floor(", a, "/", b, f),
            Atom::CeilDiv(a, b) => self.write_division("ceil(", a, "/", b, f),
            Atom::Mod(a, b) => self.write_division("(", a, " mod ", b, f),
            Atom::Min(args) => self.write_call("min(", args, f),
            Atom::Max(args) => self.write_call("max(", args, f),
        }
    }

    fn write_division(
        &self,
        open: &str,
        a: &SymInt,
        by: &str,
        b: &SymInt,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        f.write_str(open)?;
        let is_term = matches!(
            a.parts(),
            Ok((0.., [])) | Ok((0, [Term { coeff: 1.., .. }]))
        );
        self.write_enclosed(a, is_term, f)?;
        f.write_str(by)?;
        let is_factor = b.as_atom().is_some() || b.as_const().is_some_and(|value| value >= 0);
        self.write_enclosed(b, is_factor, f)?;
        f.write_char(')')
    }

    fn write_enclosed(
        &self,
        value: &SymInt,
        bare: bool,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        if bare {
            write!(f, "{}", self.of(value))
        } else {
            write!(f, "({})", self.of(value))
        }
    }

    fn write_call(&self, open: &str, args: &[SymInt], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(open)?;
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", self.of(arg))?;
        }
        f.write_char(')')
    }
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn continues_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if name.starts_with(starts_name) && name.chars().all(continues_name) && !WORDS.contains(&name) {
        return f.write_str(name);
    }
    f.write_char('`')?;
    for c in name.chars() {
        match c {
            '`' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('`')
}

/// A size expression that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the size expression `{text}` at byte {position}: {problem}")]
pub struct SymParseError {
    /// The whole text.
    pub text: String,
    /// Where reading stopped, in bytes from the start.
    pub position: usize,
    /// What is wrong there and what may stand there.
    pub problem: String,
}

/// Reads an expression. Names that are not in `table` are added as [free](SymbolOrigin::Free) symbols with no known
/// upper bound.
///
/// # Errors
///
/// [`SymParseError`] if the text does not follow the grammar of this module's text form; `table` is then unchanged.
pub fn parse(text: &str, table: &mut SymbolTable) -> Result<SymInt, SymParseError> {
    let mut grown = table.clone();
    let mut parser = Parser {
        text,
        position: 0,
        nesting: 0,
        table: &mut grown,
    };
    let value = parser.sum()?;
    parser.skip_space();
    if parser.position != text.len() {
        return Err(parser.problem("expected `+`, `-`, `*`, `mod` or the end".to_string()));
    }
    *table = grown;
    Ok(value)
}

struct Parser<'a> {
    text: &'a str,
    position: usize,
    nesting: u32,
    table: &'a mut SymbolTable,
}

impl<'a> Parser<'a> {
    fn problem(&self, problem: String) -> SymParseError {
        SymParseError {
            text: self.text.to_string(),
            position: self.position,
            problem,
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or("")
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.position += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest().chars().next()
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.position += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), SymParseError> {
        if self.accept(wanted) {
            Ok(())
        } else {
            Err(self.problem(format!("expected `{wanted}`")))
        }
    }

    /// The word at this place, not consumed.
    fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        if !rest.starts_with(starts_name) {
            return "";
        }
        let end = rest.find(|c| !continues_name(c)).unwrap_or(rest.len());
        rest.get(..end).unwrap_or("")
    }

    fn sum(&mut self) -> Result<SymInt, SymParseError> {
        let mut sum = self.signed_term()?;
        loop {
            if self.accept('+') {
                sum = sum + self.term(false)?;
            } else if self.accept('-') {
                sum = sum + self.term(true)?;
            } else {
                return Ok(sum);
            }
        }
    }

    fn signed_term(&mut self) -> Result<SymInt, SymParseError> {
        let negative = self.accept('-');
        self.term(negative)
    }

    /// A term, negated as a whole if `negative`.
    fn term(&mut self, mut negative: bool) -> Result<SymInt, SymParseError> {
        let mut smallest = false;
        let mut value = match self.number()? {
            // −2^63 is an i64 while 2^63 is none, so this one takes its sign at once.
            Some(0x8000_0000_0000_0000) if negative => {
                (negative, smallest) = (false, true);
                SymInt::constant(i64::MIN)
            }
            Some(number) => self.small(number)?,
            None => self.factor()?,
        };
        loop {
            if self.accept('*') {
                value = value * self.factor()?;
            } else if self.word() == "mod" && !smallest {
                self.position += "mod".len();
                value = value.modulo(&self.factor()?);
            } else {
                return Ok(if negative { -value } else { value });
            }
        }
    }

    fn number(&mut self) -> Result<Option<u64>, SymParseError> {
        self.skip_space();
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        match rest.get(..end) {
            None | Some("") => Ok(None),
            Some(digits) => match digits.parse() {
                Ok(number) => {
                    self.position += end;
                    Ok(Some(number))
                }
                Err(_) => Err(self.problem(format!("{digits} does not fit 64 bits"))),
            },
        }
    }

    fn small(&self, number: u64) -> Result<SymInt, SymParseError> {
        match i64::try_from(number) {
            Ok(number) => Ok(SymInt::constant(number)),
            Err(_) => Err(self.problem(format!("{number} does not fit 64 bits with a sign"))),
        }
    }

    fn factor(&mut self) -> Result<SymInt, SymParseError> {
        if let Some(number) = self.number()? {
            return self.small(number);
        }
        if self.accept('`') {
            let name = self.quoted_name()?;
            return Ok(self.symbol(name));
        }
        if self.peek() == Some('(') {
            return self.nested(|parser| parser.sum());
        }
        let word = self.word();
        if word.is_empty() {
            return Err(self.problem("expected a number, a name or `(`".to_string()));
        }
        let start = self.position;
        self.position += word.len();
        if self.peek() != Some('(') && !WORDS.contains(&word) {
            return Ok(self.symbol(word.to_string()));
        }
        match word {
            "floor" => self.nested(|parser| parser.quotient(SymInt::floor_div)),
            "ceil" => self.nested(|parser| parser.quotient(SymInt::ceil_div)),
            "min" => self.nested(|parser| parser.extremum(Extremum::Min)),
            "max" => self.nested(|parser| parser.extremum(Extremum::Max)),
            "overflow" => self.nested(|_| Ok(SymInt::fault(Fault::Overflow))),
            "too_large" => self.nested(|_| Ok(SymInt::fault(Fault::TooLarge))),
            _ => {
                self.position = start;
                Err(self.problem(format!(
                    "`{word}` is no function; there are floor, ceil, min and max, and a symbol of this name is quoted \
                     with backticks"
                )))
            }
        }
    }

    fn nested(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<SymInt, SymParseError>,
    ) -> Result<SymInt, SymParseError> {
        self.expect('(')?;
        if self.nesting == MAX_NESTING {
            return Err(self.problem(format!(
                "more than {MAX_NESTING} parentheses inside each other"
            )));
        }
        self.nesting += 1;
        let value = inner(self)?;
        self.nesting -= 1;
        self.expect(')')?;
        Ok(value)
    }

    fn quotient(
        &mut self,
        divide: fn(&SymInt, &SymInt) -> SymInt,
    ) -> Result<SymInt, SymParseError> {
        let numerator = self.signed_term()?;
        if !self.accept('/') {
            return Err(self.problem("expected `/`; a sum before it needs parentheses".to_string()));
        }
        let divisor = self.factor()?;
        Ok(divide(&numerator, &divisor))
    }

    fn extremum(&mut self, kind: Extremum) -> Result<SymInt, SymParseError> {
        let mut args = vec![self.sum()?];
        while self.accept(',') {
            args.push(self.sum()?);
        }
        Ok(extremum(args, kind))
    }

    /// The name after an opening backtick, through the closing one.
    fn quoted_name(&mut self) -> Result<String, SymParseError> {
        let mut name = String::new();
        loop {
            let c = self.next_raw("a closing backtick")?;
            match c {
                '`' if name.is_empty() => {
                    return Err(self.problem("a name must not be empty".to_string()));
                }
                '`' => return Ok(name),
                '\\' => name.push(self.escape()?),
                c => name.push(c),
            }
        }
    }

    fn next_raw(&mut self, wanted: &str) -> Result<char, SymParseError> {
        match self.rest().chars().next() {
            Some(c) => {
                self.position += c.len_utf8();
                Ok(c)
            }
            None => Err(self.problem(format!("expected {wanted}"))),
        }
    }

    fn escape(&mut self) -> Result<char, SymParseError> {
        match self.next_raw("an escape")? {
            c @ ('`' | '\\') => Ok(c),
            'u' if self.rest().starts_with('{') => {
                let rest = self.rest();
                let end = rest.find('}').unwrap_or(0);
                let code = rest
                    .get(1..end)
                    .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                    .and_then(char::from_u32);
                self.position += end + 1;
                code.ok_or_else(|| {
                    self.problem("expected the hexadecimal number of a character".to_string())
                })
            }
            _ => Err(self.problem("expected \\`, \\\\ or \\u{hex}".to_string())),
        }
    }

    fn symbol(&mut self, name: String) -> SymInt {
        let id: Option<SymbolId> = self.table.find(&name);
        SymInt::symbol(id.unwrap_or_else(|| self.table.add(Symbol::new(name, SymbolOrigin::Free))))
    }
}
