//! The algebra against plain 128-bit evaluation of random expression trees.

use proptest::prelude::*;

use super::*;

const SYMBOLS: usize = 4;

/// An expression as written, before any rewriting.
#[derive(Clone, Debug)]
enum Tree {
    Constant(i64),
    Symbol(usize),
    Neg(Box<Tree>),
    Add(Box<Tree>, Box<Tree>),
    Sub(Box<Tree>, Box<Tree>),
    Mul(Box<Tree>, Box<Tree>),
    Floor(Box<Tree>, Box<Tree>),
    Ceil(Box<Tree>, Box<Tree>),
    Mod(Box<Tree>, Box<Tree>),
    Min(Box<Tree>, Box<Tree>),
    Max(Box<Tree>, Box<Tree>),
}

impl Tree {
    fn build(&self) -> SymInt {
        match self {
            Tree::Constant(value) => SymInt::constant(*value),
            Tree::Symbol(index) => SymInt::symbol(SymbolId(*index as u32)),
            Tree::Neg(a) => -a.build(),
            Tree::Add(a, b) => a.build() + b.build(),
            Tree::Sub(a, b) => a.build() - b.build(),
            Tree::Mul(a, b) => a.build() * b.build(),
            Tree::Floor(a, b) => a.build().floor_div(&b.build()),
            Tree::Ceil(a, b) => a.build().ceil_div(&b.build()),
            Tree::Mod(a, b) => a.build().modulo(&b.build()),
            Tree::Min(a, b) => SymInt::min(&a.build(), &b.build()),
            Tree::Max(a, b) => SymInt::max(&a.build(), &b.build()),
        }
    }

    /// The value by the book; `None` if any divisor is zero or any step leaves `i64`.
    fn value(&self, symbols: &[i64]) -> Option<i128> {
        let value = match self {
            Tree::Constant(value) => i128::from(*value),
            Tree::Symbol(index) => i128::from(symbols[*index]),
            Tree::Neg(a) => -a.value(symbols)?,
            Tree::Add(a, b) => a.value(symbols)? + b.value(symbols)?,
            Tree::Sub(a, b) => a.value(symbols)? - b.value(symbols)?,
            Tree::Mul(a, b) => a.value(symbols)? * b.value(symbols)?,
            Tree::Floor(a, b) => floor(a.value(symbols)?, b.value(symbols)?)?,
            Tree::Ceil(a, b) => -floor(-a.value(symbols)?, b.value(symbols)?)?,
            Tree::Mod(a, b) => {
                let (a, b) = (a.value(symbols)?, b.value(symbols)?);
                a - b * floor(a, b)?
            }
            Tree::Min(a, b) => a.value(symbols)?.min(b.value(symbols)?),
            Tree::Max(a, b) => a.value(symbols)?.max(b.value(symbols)?),
        };
        i64::try_from(value).is_ok().then_some(value)
    }

    /// An upper bound of all numbers that the canonical form may contain or compute; beyond 2^60 the form may overflow
    /// where the tree does not.
    fn magnitude(&self) -> f64 {
        match self {
            Tree::Constant(value) => value.unsigned_abs() as f64 + 1.0,
            Tree::Symbol(_) => 16.0,
            Tree::Neg(a) => a.magnitude(),
            Tree::Add(a, b) | Tree::Sub(a, b) | Tree::Min(a, b) | Tree::Max(a, b) => {
                a.magnitude() + b.magnitude()
            }
            Tree::Mul(a, b) => a.magnitude() * b.magnitude(),
            Tree::Floor(a, b) | Tree::Ceil(a, b) | Tree::Mod(a, b) => {
                (a.magnitude() + 1.0) * (b.magnitude() + 1.0) * (b.magnitude() + 1.0)
            }
        }
    }
}

fn floor(a: i128, b: i128) -> Option<i128> {
    if b == 0 {
        return None;
    }
    let quotient = a / b;
    Some(if quotient * b != a && ((a < 0) != (b < 0)) {
        quotient - 1
    } else {
        quotient
    })
}

fn leaf() -> impl Strategy<Value = Tree> {
    prop_oneof![
        (-9i64..=16).prop_map(Tree::Constant),
        (0..SYMBOLS).prop_map(Tree::Symbol)
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    leaf().prop_recursive(4, 16, 2, |inner| {
        let pair = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        // Constant divisors are what models have; they also reach the most rewrites.
        let ratio = (
            inner.clone(),
            prop_oneof![3 => (-6i64..=8).prop_map(Tree::Constant), 2 => inner.clone()],
        )
            .prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            1 => inner.prop_map(|a| Tree::Neg(Box::new(a))),
            4 => pair.clone().prop_map(|(a, b)| Tree::Add(a, b)),
            2 => pair.clone().prop_map(|(a, b)| Tree::Sub(a, b)),
            4 => pair.clone().prop_map(|(a, b)| Tree::Mul(a, b)),
            4 => ratio.clone().prop_map(|(a, b)| Tree::Floor(a, b)),
            2 => ratio.clone().prop_map(|(a, b)| Tree::Ceil(a, b)),
            2 => ratio.prop_map(|(a, b)| Tree::Mod(a, b)),
            1 => pair.clone().prop_map(|(a, b)| Tree::Min(a, b)),
            1 => pair.prop_map(|(a, b)| Tree::Max(a, b)),
        ]
    })
}

fn values() -> impl Strategy<Value = [i64; SYMBOLS]> {
    [-6i64..=13, 0i64..=13, 0i64..=13, 1i64..=13]
}

/// A table with random ranges and divisors, and values that keep to them.
fn bound_symbols() -> impl Strategy<Value = (SymbolTable, Vec<[i64; SYMBOLS]>)> {
    let symbol = (
        -2i64..4,
        0i64..4,
        prop_oneof![Just(1i64), Just(2), Just(4), Just(6)],
        any::<bool>(),
    );
    let table = prop::collection::vec(symbol, SYMBOLS).prop_map(|symbols| {
        let mut table = SymbolTable::new();
        let mut choices = Vec::new();
        for (index, (low, extent, divisor, bounded)) in symbols.into_iter().enumerate() {
            let (min, max) = (low * divisor, (low + extent) * divisor);
            choices.push((low, extent + i64::from(!bounded) * 3, divisor));
            let max = if bounded { max } else { i64::MAX };
            table.add(Symbol {
                min,
                max,
                divisor,
                ..Symbol::new(format!("v{index}"), SymbolOrigin::Free)
            });
        }
        (table, choices)
    });
    (
        table,
        prop::collection::vec(prop::array::uniform4(0i64..100), 6),
    )
        .prop_map(|((table, choices), picks)| {
            let bind = |pick: [i64; SYMBOLS]| {
                std::array::from_fn(|index| {
                    let (low, extent, divisor) = choices[index];
                    (low + pick[index] % (extent + 1)) * divisor
                })
            };
            (table, picks.into_iter().map(bind).collect())
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_canonical_form_has_the_value_of_the_tree(tree in tree(), symbols in prop::array::uniform6(values())) {
        let form = tree.build();
        for symbols in symbols {
            let Some(expected) = tree.value(&symbols) else { continue };
            match form.eval(&symbols) {
                Ok(value) => prop_assert_eq!(i128::from(value), expected, "{} at {:?}", form, symbols),
                Err(SymError::Overflow) if tree.magnitude() > 2f64.powi(60) => {}
                Err(error) => prop_assert!(false, "{} at {:?}: {}", form, symbols, error),
            }
        }
    }

    #[test]
    fn equal_polynomials_are_equal_forms(a in tree(), b in tree(), c in tree(), k in 1i64..9) {
        let (a, b, c) = (a.build(), b.build(), c.build());
        let two = (&a + &b, &b + &c);
        let all = [&a * &b * &c, (&a + &b) * (&b + &c) * (&a - &c)];
        prop_assume!(all.iter().chain([&two.0, &two.1]).all(|value| value.error().is_none()));
        prop_assert_eq!(&a + &b, &b + &a);
        prop_assert_eq!(&two.0 + &c, &a + &two.1);
        prop_assert_eq!(&a * &b * &c, &c * &b * &a);
        prop_assert_eq!(&a * &two.1, &a * &b + &a * &c);
        prop_assert_eq!(&two.0 * (&a - &b), &a * &a - &b * &b);
        prop_assert_eq!(&a - &a, SymInt::constant(0));
        prop_assert_eq!(SymInt::min(&a, &b), SymInt::min(&b, &a));
        let divisor = SymInt::constant(k);
        prop_assert_eq!((&a * k + &b).floor_div(&divisor), &a + b.floor_div(&divisor));
        prop_assert_eq!((&a * k + &b).modulo(&divisor), b.modulo(&divisor));
    }

    #[test]
    fn the_ceiling_is_the_mirrored_floor(a in tree(), b in tree(), symbols in values()) {
        let (a, b) = (a.build(), b.build());
        if let (Ok(up), Ok(down)) = (a.ceil_div(&b).eval(&symbols), (-&a).floor_div(&b).eval(&symbols)) {
            prop_assert_eq!(up, -down);
        }
    }

    #[test]
    fn rebuilding_changes_nothing(tree in tree()) {
        let form = tree.build();
        prop_assert_eq!(form.substitute(&|id| Some(SymInt::symbol(id))), form);
    }

    #[test]
    fn substitution_commutes_with_evaluation(tree in tree(), inner in tree(), symbols in values()) {
        let (form, inner) = (tree.build(), inner.build());
        let Ok(value) = inner.eval(&symbols) else { return Ok(()) };
        let mut replaced = symbols;
        replaced[1] = value;
        let substituted = form.substitute(&|id| (id == SymbolId(1)).then(|| inner.clone()));
        // Cancellation may make either side succeed alone; where both do they agree.
        if let (Ok(before), Ok(after)) = (form.eval(&replaced), substituted.eval(&symbols)) {
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn ranges_and_divisors_hold(tree in tree(), (table, bindings) in bound_symbols()) {
        let form = tree.build();
        let (low, high) = form.range(&table);
        let divisor = form.divisibility(&table);
        for symbols in bindings {
            let Ok(value) = form.eval(&symbols) else { continue };
            prop_assert!(low <= value && value <= high, "{} = {} not in {}..={}", form, value, low, high);
            prop_assert!(if divisor == 0 { value == 0 } else { value % divisor == 0 }, "{} = {}, {}", form, value, divisor);
        }
    }

    #[test]
    fn known_comparisons_hold(a in tree(), b in tree(), (table, bindings) in bound_symbols()) {
        let (a, b) = (a.build(), b.build());
        let (eq, lt, le) = (a.known_eq(&b, &table), a.known_lt(&b, &table), a.known_le(&b, &table));
        for symbols in bindings {
            let (Ok(x), Ok(y)) = (a.eval(&symbols), b.eval(&symbols)) else { continue };
            prop_assert!(eq.is_none_or(|known| known == (x == y)), "{} == {}", a, b);
            prop_assert!(lt.is_none_or(|known| known == (x < y)), "{} < {}", a, b);
            prop_assert!(le.is_none_or(|known| known == (x <= y)), "{} <= {}", a, b);
        }
    }

    #[test]
    fn simplifying_keeps_the_value(tree in tree(), (table, bindings) in bound_symbols()) {
        let form = tree.build();
        let simple = form.simplify(&table);
        for symbols in bindings {
            let Ok(value) = form.eval(&symbols) else { continue };
            match simple.eval(&symbols) {
                Ok(simplified) => prop_assert_eq!(simplified, value, "{} became {} at {:?}", form, simple, symbols),
                Err(SymError::Overflow) if tree.magnitude() > 2f64.powi(60) => {}
                Err(error) => prop_assert!(false, "{} became {}: {}", form, simple, error),
            }
        }
    }

    #[test]
    fn exact_quotients_multiply_back(a in tree(), b in tree()) {
        let (a, b) = (a.build(), b.build());
        let product = &a * &b;
        prop_assume!(product.error().is_none() && b.as_const() != Some(0));
        prop_assert_eq!(product.exact_div(&b), Some(a.clone()));
        prop_assert_eq!(product.floor_div(&b), a.clone());
        if let Some(quotient) = a.exact_div(&b) {
            prop_assert_eq!(quotient * b, a);
        }
    }

    #[test]
    fn programs_agree_with_evaluation(trees in prop::collection::vec(tree(), 0..6), symbols in values()) {
        let forms: Vec<SymInt> = trees.iter().map(Tree::build).collect();
        let program = SymProgram::compile(&forms);
        let mut out = vec![7; 3];
        let expected: Result<Vec<i64>, (usize, SymError)> =
            forms.iter().enumerate().map(|(index, form)| form.eval(&symbols).map_err(|error| (index, error))).collect();
        let ran = program.run(&symbols, &mut out);
        prop_assert_eq!(ran.map(|()| out.clone()), expected);
    }

    #[test]
    fn programs_agree_at_the_edges_of_i64(tree in tree(), symbols in prop::array::uniform4(prop_oneof![
        Just(i64::MIN), Just(i64::MAX), Just(-1i64), Just(0), Just(1), any::<i64>(),
    ])) {
        let form = tree.build();
        let mut out = Vec::new();
        let ran = SymProgram::compile(std::slice::from_ref(&form)).run(&symbols, &mut out);
        prop_assert_eq!(ran.map(|()| out[0]).map_err(|(_, error)| error), form.eval(&symbols));
    }

    #[test]
    fn text_round_trips(tree in tree(), (mut table, _) in bound_symbols()) {
        let form = tree.build();
        let text = form.display(&table).to_string();
        let before = table.clone();
        prop_assert_eq!(parse(&text, &mut table), Ok(form), "{}", text);
        prop_assert_eq!(table, before);
    }

    #[test]
    fn any_name_round_trips(name in "\\PC{1,8}|[\\x00-\\x7f]{1,8}") {
        let mut table = SymbolTable::new();
        let value = SymInt::symbol(table.add(Symbol::new(name, SymbolOrigin::Free))) + 1;
        let text = value.display(&table).to_string();
        prop_assert_eq!(parse(&text, &mut table), Ok(value), "{}", text);
        prop_assert_eq!(table.len(), 1);
    }

    #[test]
    fn parsing_never_panics(text in "[a-z0-9`\\\\(){}+*/, -]{0,24}|(min|max|floor|ceil|mod|[(),/*+ -]|[A-C0-9]){0,16}") {
        let mut table = SymbolTable::new();
        if let Ok(value) = parse(&text, &mut table) {
            let printed = value.display(&table).to_string();
            prop_assert_eq!(parse(&printed, &mut table), Ok(value), "{}", printed);
        }
    }
}

fn table(names: &[&str]) -> SymbolTable {
    let mut table = SymbolTable::new();
    for name in names {
        table.add(Symbol::new(*name, SymbolOrigin::Free));
    }
    table
}

/// Reads and prints again.
fn canonical(text: &str) -> String {
    let mut table = table(&["N", "S", "H", "W", "C"]);
    match parse(text, &mut table) {
        Ok(value) => value.display(&table).to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn canonical_forms_read_well() {
    for (text, expected) in [
        (
            "H/2",
            "cannot read the size expression `H/2` at byte 1: expected `+`, `-`, `*`, `mod` or the end",
        ),
        ("S*N*2 + floor(H/2) - 1", "2*N*S + floor(H/2) - 1"),
        ("-N", "-N"),
        ("(N + S)*(N - S)", "N*N - S*S"),
        ("floor((H + 2*1 - 3)/2) + 1", "floor((H + 1)/2)"),
        ("ceil(H/2)", "floor((H + 1)/2)"),
        (
            "floor((floor((H - 1)/2) + 1 - 1)/2) + 1",
            "floor((H + 3)/4)",
        ),
        ("floor((6*N + 3)/9)", "floor((2*N + 1)/3)"),
        ("floor(N*S*C/S)", "N*C"),
        ("floor((N*C + S)/C)", "N + floor(S/C)"),
        ("floor((N*S + N)/(S + 1))", "N"),
        ("floor(-N/S)", "-ceil(N/S)"),
        ("N*C mod C", "0"),
        ("-N mod 8", "-(N mod 8)"),
        ("(-N) mod 8", "((-N) mod 8)"),
        ("(6*N + 5) mod 4", "2*(N mod 2) + 1"),
        ("(N mod 12) mod 4", "(N mod 4)"),
        ("min(N, min(S, N), 7, 9)", "min(7, N, S)"),
        ("max(N + 1, N + 4, N)", "N + 4"),
        ("min(3)", "3"),
        ("1 - 9223372036854775808", "-9223372036854775807"),
        ("-9223372036854775808*N", "-9223372036854775808*N"),
        ("9223372036854775807*N + N", "overflow()"),
        ("floor(N/0)", "floor(1/0)"),
        (
            "`batch size`*`min` + `a\\`b`",
            "`batch size`*`min` + `a\\`b`",
        ),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn parse_errors_say_what_and_where() {
    let mut symbols = table(&["N"]);
    let before = symbols.clone();
    for (text, position, problem) in [
        ("", 0, "expected a number, a name or `(`"),
        ("N + M +", 7, "expected a number, a name or `(`"),
        ("(N", 2, "expected `)`"),
        ("round(N)", 0, "`round` is no function"),
        ("floor(N + 1/2)", 8, "a sum before it needs parentheses"),
        ("floor", 0, "`floor`"),
        ("99999999999999999999", 0, "does not fit 64 bits"),
        ("`N", 2, "closing backtick"),
        ("``", 2, "must not be empty"),
        ("`\\n`", 3, "expected \\`"),
        ("`\\u{110000}`", 11, "hexadecimal"),
    ] {
        match parse(text, &mut symbols) {
            Err(error) if text == "floor" => assert_eq!(error.problem, "expected `(`"),
            Err(error) => {
                assert_eq!(error.position, position, "{error}");
                assert!(error.problem.contains(problem), "{error}");
            }
            Ok(value) => panic!("{text} was read as {value}"),
        }
    }
    assert_eq!(symbols, before);
    let deep = format!("{}N{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(parse(&deep, &mut symbols).is_err_and(|error| error.problem.contains("parentheses")));
}

#[test]
fn the_table_decides_what_the_form_cannot() {
    let mut symbols = SymbolTable::new();
    let symbol = |name: &str, min, max, divisor| Symbol {
        min,
        max,
        divisor,
        ..Symbol::new(name, SymbolOrigin::Free)
    };
    symbols.add(symbol("N", 1, 64, 1));
    symbols.add(symbol("S", 1, 4096, 1));
    symbols.add(symbol("H", 32, i64::MAX, 32));
    symbols.add(symbol("one", 1, 1, 1));
    let bound = SymInt::symbol(SymbolId(0)) * SymInt::symbol(SymbolId(1));
    symbols.add(Symbol::new("count", SymbolOrigin::DeviceValue { bound }));
    symbols.add(symbol("eight", 1, 15, 8));
    for (text, expected) in [
        ("max(N, 0)", "N"),
        ("min(N, S + 64)", "N"),
        ("min(N, S)", "min(N, S)"),
        ("max(0, H - min(H, N))", "H - min(N, H)"),
        ("floor((H + 1)/2)*2", "H"),
        ("4*floor(H/8)", "floor(H/2)"),
        ("floor((H + 31)/32)", "floor(H/32)"),
        ("(H*N + 5) mod 16", "5"),
        ("floor(N/65)", "0"),
        ("N mod (S + 64)", "N"),
        ("N*one", "N"),
        ("N*eight", "8*N"),
        ("S*H + N", "S*H + N"),
        ("min(count, N*S)", "count"),
        ("max(count, 0) + floor(S/2) - floor(S/2)", "count"),
    ] {
        let value = parse(text, &mut symbols)
            .map(|value| value.simplify(&symbols).display(&symbols).to_string());
        assert_eq!(value.as_deref(), Ok(expected), "{text}");
    }
    let mut read = |text: &str| parse(text, &mut symbols).unwrap_or_else(|error| panic!("{error}"));
    let pairs = [
        (read("floor(S/2)"), read("S"), Some(true)),
        (read("S - min(N, S)"), read("0"), None),
        (read("0"), read("S - min(N, S)"), Some(true)),
        (read("H"), read("31"), Some(false)),
        (read("count"), read("N*S"), Some(true)),
        (read("count"), read("64*4096"), Some(true)),
    ];
    for (a, b, expected) in pairs {
        assert_eq!(a.known_le(&b, &symbols), expected, "{a} <= {b}");
    }
    let (h, n) = (SymInt::symbol(SymbolId(2)), SymInt::symbol(SymbolId(0)));
    assert_eq!((&h + 1).known_eq(&(&n * 32), &symbols), Some(false));
    assert_eq!(h.known_eq(&n, &symbols), None);
    assert_eq!((&h * &n).known_eq(&(&n * &h), &symbols), Some(true));
    let fault = SymInt::constant(1).floor_div(&SymInt::constant(0));
    assert_eq!(fault.known_eq(&fault, &symbols), None);
    assert_eq!((&h * 3 + 8).divisibility(&symbols), 8);
    assert_eq!((&h - &h).divisibility(&symbols), 0);
    assert_eq!((&h - 1).range(&symbols), (31, i64::MAX));
    assert_eq!((&h * &h * &h * &h).range(&symbols), (1 << 20, i64::MAX));
}

#[test]
fn errors_are_values() {
    let mut symbols = table(&["N", "S"]);
    let mut eval = |text: &str, values: &[i64]| match parse(text, &mut symbols) {
        Ok(value) => value.eval(values),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(eval("N*N", &[i64::MAX]), Err(SymError::Overflow));
    assert_eq!(
        eval("N*S - N*S + N*N - N*N + N", &[i64::MAX, i64::MAX]),
        Ok(i64::MAX)
    );
    assert_eq!(eval("N*S - N*N", &[i64::MAX, i64::MAX]), Ok(0));
    assert_eq!(eval("floor(N/S)", &[1, 0]), Err(SymError::DivisionByZero));
    assert_eq!(eval("floor(N*S/S)", &[5, 0]), Ok(5));
    assert_eq!(eval("floor(N/S)", &[i64::MIN, -1]), Err(SymError::Overflow));
    assert_eq!(eval("N + S", &[1]), Err(SymError::Unbound(SymbolId(1))));
    assert_eq!(
        eval("floor(N/0) - floor(N/0)", &[1]),
        Err(SymError::DivisionByZero)
    );
    assert_eq!(SymInt::from(usize::MAX).eval(&[]), Err(SymError::Overflow));
    assert_eq!(
        SymInt::constant(i64::MIN).neg().eval(&[]),
        Err(SymError::Overflow)
    );
    assert_eq!(
        SymInt::constant(7).floor_div(&SymInt::constant(-2)),
        SymInt::constant(-4)
    );
    assert_eq!(
        SymInt::constant(7).ceil_div(&SymInt::constant(-2)),
        SymInt::constant(-3)
    );
    assert_eq!(
        SymInt::constant(7).modulo(&SymInt::constant(-2)),
        SymInt::constant(-1)
    );
}

#[test]
fn growth_ends_in_an_error_rather_than_in_memory() {
    let x = SymInt::symbol(SymbolId(0));
    let squared = (0..100).fold(&x + 1, |value, _| &value * &value);
    assert!(matches!(
        squared.error(),
        Some(SymError::TooLarge | SymError::Overflow)
    ));
    let nested = (0..100_000).fold(x.clone(), |value, _| {
        SymInt::min(&value, &x).floor_div(&(&value + 1)) + &x
    });
    assert_eq!(nested.error(), Some(SymError::TooLarge));
    let sum = SymInt::sum((0..100_000).map(|index| SymInt::symbol(SymbolId(index))));
    assert_eq!(sum.eval(&[]), Err(SymError::TooLarge));
}

#[test]
fn min_and_max_are_symbolic_however_they_are_called() {
    let (a, b) = (SymInt::symbol(SymbolId(0)), SymInt::symbol(SymbolId(1)));
    let expected = "min(s0, s1)";
    assert_eq!(a.clone().min(b.clone()).to_string(), expected);
    let (borrowed_a, borrowed_b) = (&a, &b);
    assert_eq!(borrowed_a.min(borrowed_b).to_string(), expected);
    assert_eq!(SymInt::max(&a, &b).to_string(), "max(s0, s1)");
    assert_eq!(a.clone().max(b.clone()), SymInt::max(&b, &a));
}

#[test]
fn a_program_shares_and_reuses() {
    let mut symbols = table(&["N", "H", "W"]);
    let forms: Vec<SymInt> = [
        "N*H*W",
        "N*H*W*2",
        "floor((H + 1)/2)",
        "floor((H + 1)/2)*N",
        "H + 1",
    ]
    .iter()
    .map(|text| parse(text, &mut symbols).unwrap_or_else(|error| panic!("{error}")))
    .collect();
    let program = SymProgram::compile(&forms);
    // N, H, W, N·H, N·H·W, ·2, H + 1, ⌊/2⌋, N·⌊⌋
    assert_eq!(program.instructions(), 9);
    let mut out = Vec::new();
    assert_eq!(program.run(&[2, 5, 7], &mut out), Ok(()));
    assert_eq!(out, [70, 140, 3, 6, 6]);
    let (capacity, address) = (out.capacity(), out.as_ptr());
    assert_eq!(program.run(&[3, 4, 1], &mut out), Ok(()));
    assert_eq!(
        (out.as_slice(), out.capacity(), out.as_ptr()),
        ([12, 24, 2, 6, 5].as_slice(), capacity, address)
    );
    assert_eq!(
        program.run(&[3, 4], &mut out),
        Err((0, SymError::Unbound(SymbolId(2))))
    );
    assert!(out.is_empty());
}

#[test]
fn what_lies_beyond_i64_is_no_value() {
    let mut symbols = SymbolTable::new();
    let n = symbols.add(Symbol {
        min: 2,
        max: 64,
        ..Symbol::new("n", SymbolOrigin::Free)
    });
    let n = SymInt::symbol(n);
    let huge = SymInt::constant(i64::MAX - 1);
    // ⌊(10 − 4·n) / huge⌋ is kept as −n + ⌊((huge − 4)·n + 10) / huge⌋, whose numerator has no value.
    let quotient = (&n * &SymInt::constant(-4) + 10).floor_div(&huge);
    for value in [2, 7, 64] {
        if let Ok(simple) = quotient.simplify(&symbols).eval(&[value]) {
            assert_eq!(simple, if value == 2 { 0 } else { -1 }, "n = {value}");
        }
    }
    let beyond = n + i64::MAX;
    assert_eq!(
        beyond.simplify(&symbols).eval(&[2]),
        Err(SymError::Overflow)
    );
}
