//! Generators: pinned traces, what each promises, what each refuses.

use super::*;

fn recipe(generator: Generator, inputs: &[&str], count: u64, seed: u64) -> Recipe {
    Recipe {
        generator,
        inputs: inputs.iter().map(|t| t.parse().unwrap()).collect(),
        fixed: BTreeMap::new(),
        count,
        seed,
        rate: None,
        shuffle: false,
    }
}

/// One of each, with the inputs it is for.
fn all() -> Vec<Recipe> {
    let wide = vec![64, 128, 192, 256];
    let news = PRESETS[3];
    let lognormal = Generator::LogNormal {
        mu: news.1,
        sigma: news.2,
        min: news.3,
        max: news.4,
        round: 1,
    };
    let cycle = Generator::Cycle {
        values: wide.clone(),
    };
    let zipf = Generator::Zipf {
        values: (1..=128).collect(),
        exponent: 1.0,
    };
    let phase = Generator::Phase {
        first: wide,
        then: vec![512, 640],
        at: 50,
    };
    let decode = Generator::Decode {
        prompt: None,
        answer: None,
        max: 4096,
    };
    let tokens = ["ids:1xS", "past:1x2xPx8", "mask:1xT"];
    vec![
        recipe(Generator::Const, &["x:1x3x64x64"], 100, 1),
        recipe(cycle, &["x:1xW"], 100, 1),
        recipe(zipf, &["x:1xS"], 100, 1),
        recipe(lognormal, &["x:1xS"], 100, 1),
        recipe(Generator::OcrRec { batch: 6 }, &["x:Nx3x48xW"], 100, 1),
        recipe(
            Generator::Diffusion { steps: 20 },
            &["x:2x4xHxW", "t:2"],
            100,
            1,
        ),
        recipe(phase, &["x:1xW"], 100, 1),
        recipe(decode, &tokens, 100, 1),
    ]
}

fn hash(recipe: &Recipe) -> String {
    let text = generate(recipe).unwrap().text().unwrap();
    let trace = Trace::parse(&text).unwrap();
    trace.header.blake3.unwrap()[..16].to_owned()
}

#[test]
fn traces_of_pinned_seeds_never_change() {
    let hashes: Vec<(&str, String)> = all()
        .iter()
        .map(|recipe| (recipe.generator.name(), hash(recipe)))
        .collect();
    let pinned = [
        ("const", "12418da25b876360"),
        ("cycle", "09d0891b7e987561"),
        ("zipf", "915b1b800bb634dd"),
        ("lognormal", "346f0f4c44e9befd"),
        ("ocr-rec", "2cc6fb0b2f6271fb"),
        ("diffusion", "012986df488a1999"),
        ("phase", "a9e89a3c63c0c732"),
        ("decode", "c02db6161e6040bb"),
    ];
    let pinned: Vec<(&str, String)> = pinned.map(|(n, h)| (n, h.to_owned())).into();
    assert_eq!(
        hashes, pinned,
        "a change needs a new version of the generators"
    );
    let mut open = all().swap_remove(2);
    open.rate = Some(100.0);
    open.shuffle = true;
    assert_eq!(hash(&open), "6b9dd9cef5b3b647", "arrivals and shuffling");
}

#[test]
fn another_seed_is_another_trace_and_the_same_is_the_same() {
    for recipe in all() {
        let other = Recipe {
            seed: 2,
            ..recipe.clone()
        };
        let name = recipe.generator.name();
        assert_eq!(hash(&recipe), hash(&recipe), "{name}");
        let chance = !matches!(recipe.generator, Generator::Const | Generator::Cycle { .. });
        assert_eq!(hash(&recipe) != hash(&other), chance, "{name}");
    }
}

/// The extents of one input, request by request.
fn dims(trace: &Trace, input: &str) -> Vec<Vec<i64>> {
    trace
        .entries
        .iter()
        .map(|e| e.dims[input].clone())
        .collect()
}

fn axis(trace: &Trace, input: &str, axis: usize) -> Vec<i64> {
    dims(trace, input).iter().map(|d| d[axis]).collect()
}

#[test]
fn shuffling_and_arrivals_leave_the_shapes_alone() {
    for recipe in all() {
        let plain = generate(&recipe).unwrap();
        let shuffled = generate(&Recipe {
            shuffle: true,
            ..recipe.clone()
        });
        let timed = generate(&Recipe {
            rate: Some(1000.0),
            ..recipe.clone()
        })
        .unwrap();
        let shapes =
            |trace: &Trace| -> Vec<_> { trace.entries.iter().map(|e| e.dims.clone()).collect() };
        assert_eq!(shapes(&plain), shapes(&timed));
        let sorted = |mut shapes: Vec<BTreeMap<String, Vec<i64>>>| {
            shapes.sort();
            shapes
        };
        assert_eq!(sorted(shapes(&plain)), sorted(shapes(&shuffled.unwrap())));
        assert!(plain.entries.iter().all(|e| e.at_us == 0));
        assert!(timed.entries.is_sorted_by_key(|e| e.at_us));
        let end = timed.entries.last().unwrap().at_us;
        assert!(
            (50_000..200_000).contains(&end),
            "100 requests at 1000 a second end at {end}"
        );
    }
}

#[test]
fn zipf_prefers_few_values() {
    let zipf = |exponent| Generator::Zipf {
        values: (1..=100).collect(),
        exponent,
    };
    let most = |exponent| {
        let trace = generate(&recipe(zipf(exponent), &["x:S"], 10_000, 3)).unwrap();
        let mut counts = BTreeMap::new();
        for value in axis(&trace, "x", 0) {
            *counts.entry(value).or_insert(0) += 1;
        }
        *counts.values().max().unwrap()
    };
    // the first of 100 has a share of 1 / H(100) = 0.193 at exponent 1, of 0.01 at 0
    let steep = most(1.0);
    assert!((1750..2100).contains(&steep), "{steep}");
    assert!(most(0.0) < 150);
}

#[test]
fn lognormal_has_its_median_and_its_bounds() {
    let generator = Generator::LogNormal {
        mu: 3.0,
        sigma: 1.0,
        min: 4,
        max: 100,
        round: 8,
    };
    let trace = generate(&recipe(generator, &["x:S"], 10_001, 3)).unwrap();
    let mut values = axis(&trace, "x", 0);
    values.sort_unstable();
    assert!(values.iter().all(|v| v % 8 == 0 || *v == 100));
    assert_eq!((values[0], values[10_000]), (8, 100));
    // e³ = 20.1, rounded up
    assert_eq!(values[5000], 24);
}

#[test]
fn lines_of_a_page_are_batched_by_width() {
    let trace = generate(&recipe(
        Generator::OcrRec { batch: 6 },
        &["x:Nx3x48xW"],
        500,
        3,
    ))
    .unwrap();
    let shapes = dims(&trace, "x");
    assert!(
        shapes
            .iter()
            .all(|d| (1..=6).contains(&d[0]) && d[3] >= 320 && d[3] <= 48 * 39)
    );
    assert!(
        shapes.iter().any(|d| d[3] % 32 != 0),
        "widths are not rounded"
    );
    assert!(shapes.iter().filter(|d| d[0] == 6).count() > 250);
}

#[test]
fn a_picture_keeps_its_shape_for_its_steps() {
    let trace = generate(&recipe(
        Generator::Diffusion { steps: 7 },
        &["x:1x4xHxW"],
        70,
        3,
    ))
    .unwrap();
    let shapes = dims(&trace, "x");
    for picture in shapes.chunks(7) {
        assert!(picture.iter().all(|d| *d == picture[0]));
        assert!(PICTURES.contains(&(picture[0][2] * 8, picture[0][3] * 8)));
    }
    assert!(shapes.iter().collect::<BTreeSet<_>>().len() > 2);
}

#[test]
fn phases_change_where_they_should() {
    let generator = Generator::Phase {
        first: vec![1, 2],
        then: vec![3],
        at: 10,
    };
    let trace = generate(&recipe(generator, &["x:S"], 30, 3)).unwrap();
    let values = axis(&trace, "x", 0);
    assert!(values[..10].iter().all(|v| [1, 2].contains(v)));
    assert!(values[10..].iter().all(|v| *v == 3));
}

#[test]
fn decoding_grows_by_a_token_at_a_time() {
    let generator = Generator::Decode {
        prompt: Some(5),
        answer: Some(3),
        max: 100,
    };
    let tokens = ["ids:1xS", "past:Px8", "mask:T"];
    let trace = generate(&recipe(generator, &tokens, 5, 3)).unwrap();
    assert_eq!(axis(&trace, "ids", 1), [5, 1, 1, 5, 1]);
    assert_eq!(axis(&trace, "past", 0), [0, 5, 6, 0, 5]);
    assert_eq!(axis(&trace, "mask", 0), [5, 6, 7, 5, 6]);
    let cut = Generator::Decode {
        prompt: None,
        answer: None,
        max: 64,
    };
    let trace = generate(&recipe(cut, &tokens, 500, 3)).unwrap();
    assert!(axis(&trace, "mask", 0).iter().all(|t| *t <= 64));
}

#[test]
fn a_recipe_that_makes_no_sense_is_refused_with_the_reason() {
    let refused = |recipe: &Recipe| generate(recipe).unwrap_err().to_string();
    let cycle = |values: &[i64]| Generator::Cycle {
        values: values.to_vec(),
    };
    assert!(refused(&recipe(cycle(&[]), &["x:W"], 1, 0)).contains("no values"));
    assert!(refused(&recipe(cycle(&[-1]), &["x:W"], 1, 0)).contains("below 0"));
    assert!(refused(&recipe(cycle(&[1]), &["x:3"], 1, 0)).contains("needs a variable"));
    assert!(refused(&recipe(cycle(&[1]), &["x:NxW"], 1, 0)).contains("`N`, `W` are open"));
    assert!(refused(&recipe(Generator::Const, &["x:N"], 1, 0)).contains("nobody gives `N`"));
    assert!(refused(&recipe(cycle(&[1]), &[], 1, 0)).contains("no input"));
    assert!(refused(&recipe(cycle(&[1]), &["x:W", "x:W"], 1, 0)).contains("twice"));
    assert!(refused(&recipe(cycle(&[1]), &["x:W"], MOST + 1, 0)).contains("too many"));
    let ocr = |inputs: &[&str]| recipe(Generator::OcrRec { batch: 6 }, inputs, 1, 0);
    assert!(refused(&ocr(&["x:BxW"])).contains("`B`"));
    let mut fixed = ocr(&["x:NxW"]);
    fixed.fixed = [("N".to_owned(), 1)].into();
    assert!(refused(&fixed).contains("do not give it one"));
    fixed.fixed = [("Q".to_owned(), 1)].into();
    assert!(refused(&fixed).contains("no input has the variable `Q`"));
    let mut slow = recipe(cycle(&[1]), &["x:W"], 1, 0);
    slow.rate = Some(0.0);
    assert!(refused(&slow).contains("above 0"));
    for text in ["", "x", ":1", "x:1x", "x:-1", "x:1xxx", "x:W-1"] {
        assert!(text.parse::<Template>().is_err(), "{text}");
    }
    let scalar: Template = "a:b:scalar".parse().unwrap();
    assert_eq!((scalar.name.as_str(), scalar.dims.len()), ("a:b", 0));
}
