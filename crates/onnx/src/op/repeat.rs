//! A body again and again. ONNX: Loop (1, 11, 13, 16, …). Versions differ in the types that may be carried.
//!
//! Inputs are the trip count, the condition (both may be left out) and the initial state; the body takes the number of the
//! iteration, the condition and the state, and gives a condition, the next state, and what is stacked along a new first
//! axis.
//!
//! A short loop whose trip count and conditions are known becomes straight code. All others are cut out of the model and
//! driven by the host. What such a loop carries has, in the body, the type that it begins with; where an iteration gives
//! it another extent, that extent becomes a symbol with a value of its own in each iteration, and the body is imported
//! again. [`crate::op::scan`] loops by the same functions.

use crate::body::Body;
use crate::context::Cx;
use crate::importer::{Binding, Done, Fail, Importer, invalid, unsupported};
use crate::known::Known;
use crate::op::branch::{is_outer, set_all};
use bespoke_ir::flow::{Carried, CutKind, Item, Loop, Stacked, Trip};
use bespoke_ir::op::{Concat, Map};
use bespoke_ir::{DType, ExprBuilder, SymInt, TensorType};

/// Longest loop that becomes straight code.
const MAX_UNROLLED: i64 = 16;
/// Most nodes that one loop may become.
const MAX_UNROLLED_NODES: usize = 4096;

/// How often a loop runs at most.
pub(super) enum Limit {
    None,
    Extent(SymInt),
    Data(Binding),
}

/// A loop, whichever operator it was.
pub(super) struct Plan {
    pub(super) kind: CutKind,
    pub(super) limit: Limit,
    /// Whether the first iteration runs; `None` is true.
    pub(super) condition: Option<Binding>,
    /// Initial state, with the name of each in the body.
    pub(super) state: Vec<(String, Binding)>,
    /// Nodes of the body.
    pub(super) nodes: usize,
}

/// What an iteration gives.
pub(super) struct Turn {
    /// Whether there is another one; `None` is true.
    pub(super) more: Option<Binding>,
    pub(super) state: Vec<Binding>,
    pub(super) stacked: Vec<Binding>,
}

/// Imports an iteration: its number and the state go in.
pub(super) type Iterate<'f> = dyn FnMut(&mut Cx<'_>, Binding, Vec<Binding>) -> Done<Turn> + 'f;

/// State and stacked results after a loop.
pub(super) type Results = (Vec<Binding>, Vec<Binding>);

/// Loop.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let given = cx.inputs(0, usize::MAX)?;
    let body = Body::of(cx, "body")?;
    let carried = given.saturating_sub(2);
    if body.inputs.len() != carried + 2 || body.outputs() < carried + 1 {
        return invalid(format!(
            "it carries {carried} values, but its body '{}' has {} inputs and {} outputs; it must have {} and at least {}",
            body.name,
            body.inputs.len(),
            body.outputs(),
            carried + 2,
            carried + 1
        ));
    }
    if cx.output_count() > body.outputs() - 1 {
        return invalid(format!(
            "it has {} outputs, but its body gives {}",
            cx.output_count(),
            body.outputs() - 1
        ));
    }
    let limit = match cx.input(0)? {
        None => Limit::None,
        Some(trip) => match trip
            .known
            .as_ref()
            .and_then(|known| known.as_ints())
            .as_deref()
        {
            Some([count]) => Limit::Extent(count.clone()),
            Some(_) => return invalid("its trip count must have one element"),
            None => Limit::Data(trip),
        },
    };
    let condition = cx.input(1)?;
    let mut state = Vec::with_capacity(carried);
    for i in 0..carried {
        let Some(value) = cx.input(i + 2)? else {
            return invalid(format!("its input {} is left out", i + 2));
        };
        state.push((body.inputs[i + 2].clone(), value));
    }
    let plan = Plan {
        kind: CutKind::Loop,
        limit,
        condition,
        state,
        nodes: body.len(),
    };
    let mut iterate = |cx: &mut Cx<'_>, number: Binding, state: Vec<Binding>| {
        // a body only runs while the condition is true
        let mut given = vec![number, truth(true)];
        given.extend(state);
        let mut outputs = body.import(cx.importer(), given)?.into_iter();
        let more = outputs.next();
        let state = outputs.by_ref().take(carried).collect();
        Ok(Turn {
            more,
            state,
            stacked: outputs.collect(),
        })
    };
    let (mut results, stacked) = run(cx, plan, &mut iterate)?;
    results.extend(stacked);
    results.truncate(cx.output_count());
    set_all(cx, results)
}

fn truth(value: bool) -> Binding {
    Binding::known(Known::ints(DType::Bool, vec![], [i64::from(value).into()]))
}

/// Imports a loop in the way that fits it.
pub(super) fn run(cx: &mut Cx<'_>, mut plan: Plan, iterate: &mut Iterate<'_>) -> Done<Results> {
    let first = plan.condition.as_ref().map(Binding::constant_int);
    match first {
        Some(Some(0)) => plan.limit = Limit::Extent(0.into()),
        Some(None) => {}
        None | Some(Some(_)) => plan.condition = None,
    }
    if let (Limit::Extent(trip), None | Some(Some(_))) = (&plan.limit, first)
        && let Some(trip) = trip.as_const()
    {
        let trip = trip.max(0);
        let small =
            trip <= MAX_UNROLLED && plan.nodes.saturating_mul(trip as usize) <= MAX_UNROLLED_NODES;
        if small {
            let checkpoint = cx.importer().checkpoint();
            let state = plan.state.iter().map(|(_, value)| value.clone()).collect();
            if let Some(results) = unroll(cx, trip, state, iterate)? {
                return Ok(results);
            }
            cx.importer().roll_back(checkpoint);
        }
    }
    if cx.importer().cutter.is_none() {
        return Err(Fail::NeedsCut(
            "how often it runs is computed from the data or more than is unrolled, and this use of the model needs one \
             graph"
                .into(),
        ));
    }
    Importer::attempt(cx, |cx| at_run_time(cx, plan, iterate))
}

/// The loop as straight code; `None` if a condition is not known.
fn unroll(
    cx: &mut Cx<'_>,
    trip: i64,
    mut state: Vec<Binding>,
    iterate: &mut Iterate<'_>,
) -> Done<Option<Results>> {
    let mut stacks: Vec<Vec<Binding>> = Vec::new();
    for number in 0..trip {
        let number = Binding::known(Known::ints(DType::I64, vec![], [number.into()]));
        let turn = iterate(cx, number, state)?;
        state = turn.state;
        stacks.resize(turn.stacked.len(), Vec::new());
        for (stack, part) in stacks.iter_mut().zip(turn.stacked) {
            stack.push(part);
        }
        match turn.more.as_ref().map(Binding::constant_int) {
            None | Some(Some(1..)) => {}
            Some(Some(_)) => break,
            Some(None) => return Ok(None),
        }
    }
    if trip == 0 {
        return Ok(Some((state.clone(), nothing(cx, state, iterate)?)));
    }
    let mut stacked = Vec::with_capacity(stacks.len());
    for (i, parts) in stacks.iter().enumerate() {
        let mut values = Vec::with_capacity(parts.len());
        for (k, part) in parts.iter().enumerate() {
            let value = cx.held(part)?;
            let mut dims = part.ty.dims.clone();
            dims.insert(0, 1.into());
            values.push(cx.reshape(&format!("stack{i}.{k}"), value, dims)?);
        }
        let value = match &values[..] {
            [one] => *one,
            many => cx.emit(&format!("stack{i}"), Concat { axis: 0 }, many)?,
        };
        stacked.push(cx.hold(value));
    }
    Ok(Some((state, stacked)))
}

/// What a loop stacks that never runs: the body is only imported for its types.
fn nothing(cx: &mut Cx<'_>, state: Vec<Binding>, iterate: &mut Iterate<'_>) -> Done<Vec<Binding>> {
    let checkpoint = cx.importer().checkpoint();
    let outer = cx.symbols().len();
    let number = Binding::known(Known::ints(DType::I64, vec![], [0.into()]));
    let turn = iterate(cx, number, state)?;
    cx.importer().roll_back(checkpoint);
    let mut results = Vec::with_capacity(turn.stacked.len());
    for (i, part) in turn.stacked.iter().enumerate() {
        let mut dims = vec![SymInt::constant(0)];
        let known = part.ty.dims.iter();
        dims.extend(known.map(|d| match is_outer(d, outer) {
            true => d.clone(),
            false => 0.into(),
        }));
        let mut b = ExprBuilder::new(&[]);
        let zero = b.number(part.ty.dtype, 0.0);
        let value = cx.emit(&format!("stack{i}"), Map::over(b.finish(zero), dims), &[])?;
        results.push(cx.hold(value));
    }
    Ok(results)
}

fn at_run_time(cx: &mut Cx<'_>, plan: Plan, iterate: &mut Iterate<'_>) -> Done<Results> {
    let node = cx.name().to_owned();
    let importer = cx.importer();
    let trip = match &plan.limit {
        Limit::None => Trip::Unbounded,
        Limit::Extent(count) => Trip::Extent(count.clone()),
        Limit::Data(count) => Trip::Tensor(importer.tensor_of("trip count", count)?),
    };
    let condition = match &plan.condition {
        None => None,
        Some(binding) => Some(importer.tensor_of("condition", binding)?),
    };
    let mut initial = Vec::with_capacity(plan.state.len());
    for (name, binding) in &plan.state {
        initial.push(importer.tensor_of(name, binding)?);
    }
    importer.close()?;
    let outer = importer.graph.symbols.len();
    // which extents of the state have a value of their own in each iteration
    let mut own: Vec<Vec<bool>> = plan
        .state
        .iter()
        .map(|s| vec![false; s.1.ty.rank()])
        .collect();
    let (body, turn) = loop {
        let checkpoint = cx.importer().checkpoint();
        match iteration(cx, &plan.state, &own, iterate)? {
            Ok(done) => break done,
            Err(wider) => own = wider,
        }
        cx.importer().roll_back(checkpoint);
    };
    let importer = cx.importer();
    let mut carried = Vec::with_capacity(initial.len());
    let mut state = Vec::with_capacity(initial.len());
    for (i, &initial) in initial.iter().enumerate() {
        let (name, ty) = (&plan.state[i].0, plan.state[i].1.ty.clone());
        let result = importer.binding_tensor(&format!("{node}.{name}"), ty, &own[i])?;
        carried.push(Carried {
            initial,
            inner: body.inner[i],
            next: body.next[i],
            result,
        });
        state.push(importer.tensor_binding(result)?);
    }
    let count = match &trip {
        Trip::Extent(count) if condition.is_none() && body.more.is_none() => Some(
            count
                .max(&SymInt::constant(0))
                .simplify(&importer.graph.symbols),
        ),
        _ => None,
    };
    let mut stacked = Vec::with_capacity(turn.stacked.len());
    let mut stacks = Vec::with_capacity(turn.stacked.len());
    for (i, (part, &element)) in turn.stacked.iter().zip(&body.stacked).enumerate() {
        let mut dims = vec![count.clone().unwrap_or_else(|| 0.into())];
        dims.extend(part.ty.dims.iter().cloned());
        let mut own = vec![count.is_none()];
        own.extend(part.ty.dims.iter().map(|d| !is_outer(d, outer)));
        let ty = TensorType::new(part.ty.dtype, dims);
        let result = importer.binding_tensor(&format!("{node}.stack{i}"), ty, &own)?;
        stacks.push(Stacked { element, result });
        stacked.push(importer.tensor_binding(result)?);
    }
    importer.push(Item::Loop(Box::new(Loop {
        node,
        kind: plan.kind,
        trip,
        condition,
        iteration: Some(body.number),
        carried,
        block: body.block,
        next_condition: body.more,
        stacked: stacks,
    })))?;
    importer.open()?;
    Ok((state, stacked))
}

/// A body in a block of its own, and the tensors at its border.
struct Inside {
    number: bespoke_ir::TensorId,
    inner: Vec<bespoke_ir::TensorId>,
    next: Vec<bespoke_ir::TensorId>,
    more: Option<bespoke_ir::TensorId>,
    stacked: Vec<bespoke_ir::TensorId>,
    block: bespoke_ir::flow::Block,
}

/// Imports the body with a state of these types; `Err` says which extents must be more general.
#[allow(
    clippy::type_complexity,
    reason = "the outer result is a failure, the inner one a retry"
)]
fn iteration(
    cx: &mut Cx<'_>,
    initial: &[(String, Binding)],
    own: &[Vec<bool>],
    iterate: &mut Iterate<'_>,
) -> Done<Result<(Inside, Turn), Vec<Vec<bool>>>> {
    let importer = cx.importer();
    let number = importer.new_tensor("iteration", TensorType::new(DType::I64, vec![]))?;
    let mut inner = Vec::with_capacity(initial.len());
    let mut state = Vec::with_capacity(initial.len());
    for ((name, binding), own) in initial.iter().zip(own) {
        let tensor = importer.binding_tensor(name, binding.ty.clone(), own)?;
        inner.push(tensor);
        state.push(importer.tensor_binding(tensor)?);
    }
    importer.enter()?;
    let counter = importer.tensor_binding(number)?;
    let before = state.clone();
    let turn = iterate(cx, counter, state)?;
    if let Some(wider) = wider(cx, &before, &turn.state, own)? {
        return Ok(Err(wider));
    }
    let importer = cx.importer();
    let mut next = Vec::with_capacity(inner.len());
    for ((name, _), binding) in initial.iter().zip(&turn.state) {
        next.push(importer.tensor_of(&format!("{name}.next"), binding)?);
    }
    let more = match &turn.more {
        Some(binding) if !matches!(binding.constant_int(), Some(1..)) => {
            Some(importer.tensor_of("condition", binding)?)
        }
        _ => None,
    };
    let mut stacked = Vec::with_capacity(turn.stacked.len());
    for binding in &turn.stacked {
        stacked.push(importer.tensor_of("element", binding)?);
    }
    let block = importer.leave()?;
    let inside = Inside {
        number,
        inner,
        next,
        more,
        stacked,
        block,
    };
    Ok(Ok((inside, turn)))
}

/// The extents that must be more general for an iteration to read what the one before it gave.
fn wider(
    cx: &Cx<'_>,
    before: &[Binding],
    after: &[Binding],
    own: &[Vec<bool>],
) -> Done<Option<Vec<Vec<bool>>>> {
    let symbols = cx.symbols();
    let mut wider = own.to_vec();
    for (i, (a, b)) in before.iter().zip(after).enumerate() {
        if a.ty.dtype != b.ty.dtype {
            return invalid(format!(
                "it carries value {i} as {} into an iteration and as {} out of it",
                a.ty.dtype, b.ty.dtype
            ));
        }
        if a.ty.rank() != b.ty.rank() {
            return unsupported(format!(
                "an iteration changes the rank of carried value {i}, from {} to {}",
                a.ty.display(symbols),
                b.ty.display(symbols)
            ));
        }
        for (axis, (x, y)) in a.ty.dims.iter().zip(&b.ty.dims).enumerate() {
            wider[i][axis] |= x.known_eq(y, symbols) != Some(true);
        }
    }
    Ok((wider != own).then_some(wider))
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    /// Appends x to the state `m` times, and stacks the numbers of the iterations.
    fn growing(model: Model) -> Model {
        let body = Model::new(17)
            .node("Identity", &["c"], &["go"], &[])
            .node("Concat", &["s", "x"], &["t"], &[attr("axis", 0i64)])
            .node("Identity", &["i"], &["k"], &[])
            .body("i c s", "go t k");
        model.input("x", DType::F32, &["N"]).node(
            "Loop",
            &["m", "", "x"],
            &["y", "n"],
            &[attr("body", body)],
        )
    }

    #[test]
    fn a_short_loop_becomes_straight_code() {
        let model = Model::new(17).initializer(ints("m", &[], &[2]));
        insta::assert_snapshot!(growing(model).graph("y n"), @r"
        graph g(x: f32[N]) {
          %0 = concat(x, x) axis=0 : f32[2*N]  ; Concat_t
          %1 = concat(%0, x) axis=0 : f32[3*N]  ; Concat_t
          %2 = reshape(0:i64) dims=[1] : i64[1]  ; Loop_y/stack0.0
          %3 = reshape(1:i64) dims=[1] : i64[1]  ; Loop_y/stack0.1
          %4 = concat(%2, %3) axis=0 : i64[2]  ; Loop_y/stack0
          return %1, %4
        }
        ");
    }

    #[test]
    fn an_extent_that_changes_is_a_symbol_of_the_iteration() {
        let model = Model::new(17).input("m", DType::I64, &[]);
        insta::assert_snapshot!(growing(model).flow("y n"), @r"
        flow g(m: i64[], x: f32[N]) {
          loop `m` times  ; Loop_y
            carry s: f32[s_0] = x, then t
            segment 0 (s, x) -> t: f32[N + s_0]
            stack iteration
          end -> Loop_y.s: f32[`Loop_y.s_0`], Loop_y.stack0: i64[`Loop_y.stack0_0`]
          return Loop_y.s, Loop_y.stack0
        }
        segment 0: graph g.0(s: f32[s_0], x: f32[N]) {
          %0 = concat(s, x) axis=0 : f32[N + s_0]  ; Concat_t
          return %0
        }
        ");
        let long = Model::new(17).initializer(ints("m", &[], &[17]));
        let error = growing(long).error("y");
        assert!(error.contains("needs one graph"), "{error}");
    }
}
