//! One of two bodies. ONNX: If (1, 11, 13, 16, …). Versions differ in the types that branches may give.
//!
//! A condition that is known at import leaves only the branch that it chooses. Otherwise the model is cut: the host reads
//! the condition and runs one of two blocks. Extents in which the branches differ become symbols that get their value from
//! the branch that ran; the branches must agree in element types and ranks.

use crate::body::Body;
use crate::context::Cx;
use crate::importer::{Binding, Done, Fail, Importer, invalid, unsupported};
use bespoke_ir::flow::{Branch, If, Item};
use bespoke_ir::{SymInt, TensorType};

/// If.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let bodies = [Body::of(cx, "then_branch")?, Body::of(cx, "else_branch")?];
    let wanted = cx.output_count();
    for body in &bodies {
        if body.outputs() < wanted || !body.inputs.is_empty() {
            return invalid(format!(
                "its body '{}' has {} inputs and {} outputs, but must have none and {wanted}",
                body.name,
                body.inputs.len(),
                body.outputs()
            ));
        }
    }
    let Some(condition) = cx.input(0)? else {
        return invalid("its condition is left out");
    };
    if let Some(value) = condition.constant_int() {
        let results = bodies[usize::from(value == 0)].import(cx.importer(), Vec::new())?;
        return set_all(cx, results);
    }
    if cx.importer().cutter.is_none() {
        return Err(Fail::NeedsCut(
            "its condition is computed from the data, and this use of the model needs one graph"
                .into(),
        ));
    }
    let results = Importer::attempt(cx, |cx| at_run_time(cx, &condition, &bodies))?;
    set_all(cx, results)
}

/// Binds the outputs.
pub(super) fn set_all(cx: &mut Cx<'_>, results: Vec<Binding>) -> Done {
    for (i, result) in results.into_iter().enumerate() {
        cx.set_binding(i, result);
    }
    Ok(())
}

fn at_run_time(cx: &mut Cx<'_>, condition: &Binding, bodies: &[Body; 2]) -> Done<Vec<Binding>> {
    let (node, wanted) = (cx.name().to_owned(), cx.output_count());
    let importer = cx.importer();
    let condition = importer.tensor_of("condition", condition)?;
    importer.close()?;
    let outer = importer.graph.symbols.len();
    let mut branches = [Branch::default(), Branch::default()];
    let mut given: Vec<Vec<Binding>> = Vec::new();
    for (body, branch) in bodies.iter().zip(&mut branches) {
        importer.enter()?;
        let mut results = body.import(importer, Vec::new())?;
        results.truncate(wanted);
        for (i, result) in results.iter().enumerate() {
            branch
                .results
                .push(importer.tensor_of(body.output(i), result)?);
        }
        branch.block = importer.leave()?;
        given.push(results);
    }
    let mut results = Vec::with_capacity(wanted);
    let mut tensors = Vec::with_capacity(wanted);
    let (then, otherwise) = (&given[0], &given[1]);
    for (i, (a, b)) in then.iter().zip(otherwise).enumerate() {
        let (ty, own) = common(importer, i, &a.ty, &b.ty, outer)?;
        let tensor = importer.binding_tensor(&format!("{node}.{i}"), ty, &own)?;
        tensors.push(tensor);
        results.push(match (&a.known, &b.known) {
            // whichever branch runs, these are the elements
            (Some(x), Some(y)) if x == y => Binding::known((**x).clone()),
            _ => importer.tensor_binding(tensor)?,
        });
    }
    importer.push(Item::If(Box::new(If {
        node,
        condition,
        branches,
        results: tensors,
    })))?;
    importer.open()?;
    Ok(results)
}

/// The type of a result, and which of its extents only the branch that ran knows.
fn common(
    importer: &Importer,
    i: usize,
    a: &TensorType,
    b: &TensorType,
    outer: usize,
) -> Done<(TensorType, Vec<bool>)> {
    let symbols = &importer.graph.symbols;
    if a.dtype != b.dtype {
        return invalid(format!(
            "its branches give output {i} different element types, {} and {}",
            a.dtype, b.dtype
        ));
    }
    if a.rank() != b.rank() {
        return unsupported(format!(
            "its branches give output {i} different ranks: {} and {}; fix the dims that the condition depends on",
            a.display(symbols),
            b.display(symbols)
        ));
    }
    let pairs = a.dims.iter().zip(&b.dims);
    let own = pairs
        .map(|(x, y)| !is_outer(x, outer) || x.known_eq(y, symbols) != Some(true))
        .collect();
    Ok((a.clone(), own))
}

/// Whether an extent is an expression of symbols that were there before a body.
pub(super) fn is_outer(dim: &SymInt, outer: usize) -> bool {
    dim.symbols().iter().all(|id| id.index() < outer)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, ints};
    use bespoke_ir::DType;

    /// `c ? -x : concat(x, x)`, then its absolute value.
    fn model(model: Model, condition: &str) -> Model {
        let then = Model::new(17)
            .node("Neg", &["x"], &["a"], &[])
            .body("", "a");
        let otherwise = Model::new(17)
            .node("Concat", &["x", "x"], &["b"], &[attr("axis", 0i64)])
            .body("", "b");
        let bodies = [attr("then_branch", then), attr("else_branch", otherwise)];
        model
            .input("x", DType::F32, &["N"])
            .node("If", &[condition], &["y"], &bodies)
            .node("Abs", &["y"], &["z"], &[])
    }

    #[test]
    fn a_condition_that_follows_from_shapes_leaves_one_branch() {
        let rank = Model::new(17)
            .initializer(ints("two", &[1], &[2]))
            .node("Shape", &["x"], &["s"], &[])
            .node("Shape", &["s"], &["r"], &[])
            .node("Equal", &["r", "two"], &["c"], &[]);
        insta::assert_snapshot!(model(rank, "c").graph("z"), @r"
        graph g(x: f32[N]) {
          %0 = concat(x, x) axis=0 : f32[2*N]  ; Concat_b
          %1 = map(%0) expr=(abs(x0)) : f32[2*N]  ; Abs_z
          return %1
        }
        ");
    }

    #[test]
    fn any_other_condition_is_a_cut() {
        let data = || Model::new(17).input("c", DType::Bool, &[]);
        let error = model(data(), "c").error("z");
        assert!(error.contains("needs one graph"), "{error}");
        insta::assert_snapshot!(model(data(), "c").flow("z"), @r"
        flow g(c: bool[], x: f32[N]) {
          if c  ; If_y
          then
            segment 0 (x) -> a: f32[N]
            give a
          else
            segment 1 (x) -> b: f32[2*N]
            give b
          end -> If_y.0: f32[`If_y.0_0`]
          segment 2 (If_y.0) -> z: f32[`If_y.0_0`]
          return z
        }
        segment 0: graph g.0(x: f32[N]) {
          %0 = map(x) expr=(neg(x0)) : f32[N]  ; Neg_a
          return %0
        }
        segment 1: graph g.1(x: f32[N]) {
          %0 = concat(x, x) axis=0 : f32[2*N]  ; Concat_b
          return %0
        }
        segment 2: graph g.2(If_y.0: f32[`If_y.0_0`]) {
          %0 = map(If_y.0) expr=(abs(x0)) : f32[`If_y.0_0`]  ; Abs_z
          return %0
        }
        ");
    }
}
