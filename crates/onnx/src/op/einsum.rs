//! Einstein summation. ONNX: Einsum (12, 28).
//!
//! Operands are contracted from the left, two at a time. For two operands every label is one of: *batch* (in both, and
//! needed later), *contracted* (in both, not needed), *left* or *right* (in one). After labels of one operand that
//! nothing needs are summed away, the operands are brought to `[batch…, M, K]` and `[batch…, K, N]` by transposes and
//! reshapes and multiplied. `...` stands for leading axes that broadcast. A label repeated within one operand takes the
//! diagonal: everything off it is replaced by zero and one of the two axes is summed away.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Map, MatMul, Reduce, Transpose};
use bespoke_ir::{BinaryOp, Expr, SymInt, ValueId};

/// A label: a letter, or a place in the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// A tensor under contraction.
struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

/// Einsum.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let count = cx.inputs(1, usize::MAX)?;
    let Some(equation) = cx.attrs.string("equation")? else {
        return invalid("attribute 'equation' is required");
    };
    let ranks = (0..count).map(|i| cx.rank(i)).collect::<Done<Vec<_>>>()?;
    let (inputs, output) = parse(equation, &ranks)?;
    let dtype = cx.dtype(0)?;
    let mut terms = Vec::with_capacity(count);
    for (i, labels) in inputs.into_iter().enumerate() {
        if cx.dtype(i)? != dtype {
            return invalid(format!(
                "its operands have different element types, {dtype} and {}",
                cx.dtype(i)?
            ));
        }
        let value = cx.value(i)?;
        terms.push(diagonal(cx, i, Term { value, labels })?);
    }
    if let Some(missing) = output
        .iter()
        .find(|label| !terms.iter().any(|term| term.labels.contains(label)))
    {
        return invalid(format!(
            "the equation '{equation}' has the output label {missing:?}, which no operand has"
        ));
    }

    let mut rest = terms.into_iter();
    let Some(mut left) = rest.next() else {
        return invalid("it has no operands");
    };
    let mut step = 0;
    let mut rest: Vec<Term> = rest.collect();
    while !rest.is_empty() {
        let right = rest.remove(0);
        let needed = |label: &Label| {
            output.contains(label) || rest.iter().any(|term| term.labels.contains(label))
        };
        left = contract(cx, step, left, right, &needed)?;
        step += 1;
    }
    let left = sum_away(cx, "sum", left, &|label| output.contains(label))?;
    let y = arrange(cx, "order", &left, &output)?;
    let y = if cx.value_ty(y).rank() == 0 || step > 0 || y != left.value {
        y
    } else {
        left.value
    };
    cx.set(0, y);
    Ok(())
}

/// The labels of the operands and of the result.
fn parse(equation: &str, ranks: &[usize]) -> Done<(Vec<Vec<Label>>, Vec<Label>)> {
    let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (text.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return invalid(format!(
            "the equation '{equation}' has {} operands, but it has {} inputs",
            terms.len(),
            ranks.len()
        ));
    }
    let mut widest = 0;
    let mut inputs = Vec::with_capacity(terms.len());
    for (term, &rank) in terms.iter().zip(ranks) {
        let letters = term.chars().filter(char::is_ascii_alphabetic).count();
        let dots = if term.contains("...") {
            rank.checked_sub(letters)
        } else {
            (letters == rank).then_some(0)
        };
        let Some(dots) = dots else {
            return invalid(format!(
                "the equation '{equation}' names {letters} axes of an operand of rank {rank}"
            ));
        };
        widest = widest.max(dots);
        inputs.push(labels(equation, term, dots)?);
    }
    let output = match right {
        Some(term) => labels(equation, term, widest)?,
        None => {
            // Implicit form: the ellipsis, then every label that stands once, in alphabetical order.
            let mut all: Vec<Label> = inputs.iter().flatten().copied().collect();
            all.sort_unstable();
            let once = |label: &Label| all.iter().filter(|other| *other == label).count() == 1;
            let mut output: Vec<Label> = (0..widest).rev().map(Label::Ellipsis).collect();
            output.extend(
                all.iter()
                    .filter(|label| matches!(label, Label::Letter(_)) && once(label)),
            );
            output
        }
    };
    if (1..output.len()).any(|i| output[..i].contains(&output[i])) {
        return invalid(format!(
            "the equation '{equation}' repeats a label of the output"
        ));
    }
    Ok((inputs, output))
}

fn labels(equation: &str, term: &str, dots: usize) -> Done<Vec<Label>> {
    let mut labels = Vec::new();
    let mut parts = term.splitn(2, "...");
    let (before, after) = (parts.next().unwrap_or(""), parts.next());
    let letters = |text: &str, labels: &mut Vec<Label>| -> Done {
        for c in text.chars() {
            if !c.is_ascii_alphabetic() {
                return invalid(format!("the equation '{equation}' contains '{c}'"));
            }
            labels.push(Label::Letter(c));
        }
        Ok(())
    };
    letters(before, &mut labels)?;
    if let Some(after) = after {
        labels.extend((0..dots).rev().map(Label::Ellipsis));
        letters(after, &mut labels)?;
    }
    Ok(labels)
}

/// Takes the diagonal for each label that stands twice.
fn diagonal(cx: &mut Cx<'_>, operand: usize, mut term: Term) -> Done<Term> {
    let mut round = 0;
    loop {
        let twice = (1..term.labels.len()).find_map(|second| {
            let first = term.labels[..second]
                .iter()
                .position(|label| *label == term.labels[second])?;
            Some((first, second))
        });
        let Some((first, second)) = twice else {
            return Ok(term);
        };
        let dims = cx.value_ty(term.value).dims.clone();
        cx.require_equal("the extents of a diagonal", &dims[first], &dims[second])?;
        let dtype = cx.value_ty(term.value).dtype;
        let masked = cx.map(
            &format!("off_diagonal_{operand}.{round}"),
            &[term.value],
            |b, r| {
                let (i, j) = (b.coord(first), b.coord(second));
                let on = b.binary(BinaryOp::Eq, i, j);
                let zero = b.number(dtype, 0.0);
                b.select(on, r[0], zero)
            },
        )?;
        let sum = Reduce {
            kind: ReduceKind::Sum,
            axes: vec![second],
            keep_dims: false,
        };
        term.value = cx.emit(&format!("diagonal_{operand}.{round}"), sum, &[masked])?;
        term.labels.remove(second);
        round += 1;
    }
}

/// Sums over the labels that nothing needs.
fn sum_away(
    cx: &mut Cx<'_>,
    suffix: &str,
    term: Term,
    needed: &dyn Fn(&Label) -> bool,
) -> Done<Term> {
    let axes: Vec<usize> = (0..term.labels.len())
        .filter(|&i| !needed(&term.labels[i]))
        .collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let labels = term
        .labels
        .iter()
        .copied()
        .filter(|label| needed(label))
        .collect();
    let value = cx.emit(
        suffix,
        Reduce {
            kind: ReduceKind::Sum,
            axes,
            keep_dims: false,
        },
        &[term.value],
    )?;
    Ok(Term { value, labels })
}

/// The term's value with its axes in the order of `labels`, all of which it has.
fn arrange(cx: &mut Cx<'_>, suffix: &str, term: &Term, labels: &[Label]) -> Done<ValueId> {
    let perm: Vec<usize> = labels
        .iter()
        .filter_map(|label| term.labels.iter().position(|own| own == label))
        .collect();
    if perm.iter().copied().eq(0..labels.len()) {
        return Ok(term.value);
    }
    cx.emit(suffix, Transpose { perm }, &[term.value])
}

fn contract(
    cx: &mut Cx<'_>,
    step: usize,
    a: Term,
    b: Term,
    needed: &dyn Fn(&Label) -> bool,
) -> Done<Term> {
    let name = |part: &str| format!("{step}/{part}");
    let a_has: Vec<Label> = a.labels.clone();
    let b_has: Vec<Label> = b.labels.clone();
    let a = sum_away(cx, &name("sum_a"), a, &|label| {
        needed(label) || b_has.contains(label)
    })?;
    let b = sum_away(cx, &name("sum_b"), b, &|label| {
        needed(label) || a_has.contains(label)
    })?;
    let shared = |label: &&Label| b.labels.contains(label);
    let batch: Vec<Label> = a
        .labels
        .iter()
        .filter(shared)
        .filter(|label| needed(label))
        .copied()
        .collect();
    let inner: Vec<Label> = a
        .labels
        .iter()
        .filter(shared)
        .filter(|label| !needed(label))
        .copied()
        .collect();
    let rows: Vec<Label> = a
        .labels
        .iter()
        .filter(|label| !b.labels.contains(label))
        .copied()
        .collect();
    let columns: Vec<Label> = b
        .labels
        .iter()
        .filter(|label| !a.labels.contains(label))
        .copied()
        .collect();
    let labels: Vec<Label> = [&batch[..], &rows, &columns].concat();

    let left = arrange(
        cx,
        &name("order_a"),
        &a,
        &[&batch[..], &rows, &inner].concat(),
    )?;
    let right = arrange(
        cx,
        &name("order_b"),
        &b,
        &[&batch[..], &inner, &columns].concat(),
    )?;
    let (left_dims, right_dims) = (
        cx.value_ty(left).dims.clone(),
        cx.value_ty(right).dims.clone(),
    );
    let (n, m, k) = (batch.len(), rows.len(), inner.len());
    let one = SymInt::constant(1);
    let value = if inner.is_empty() {
        // Nothing is summed: an elementwise product of [batch…, rows…, 1…] and [batch…, columns…].
        let mut wide = left_dims;
        wide.extend(vec![one.clone(); columns.len()]);
        let mut lifted = right_dims[..n].to_vec();
        lifted.extend(vec![one; m]);
        lifted.extend_from_slice(&right_dims[n..]);
        let left = cx.reshape(&name("wide_a"), left, wide)?;
        let right = cx.reshape(&name("wide_b"), right, lifted)?;
        let dtype = cx.value_ty(left).dtype;
        cx.emit(
            &name("product"),
            Map::new(Expr::binary(BinaryOp::Mul, dtype)),
            &[left, right],
        )?
    } else {
        let fold = |dims: &[SymInt]| SymInt::product(dims);
        for (p, q) in left_dims[n + m..].iter().zip(&right_dims[n..n + k]) {
            cx.require_equal("contracted extents", p, q)?;
        }
        let mut matrix = left_dims[..n].to_vec();
        matrix.extend([fold(&left_dims[n..n + m]), fold(&left_dims[n + m..])]);
        let left = cx.reshape(&name("matrix_a"), left, matrix)?;
        let mut matrix = right_dims[..n].to_vec();
        matrix.extend([fold(&right_dims[n..n + k]), fold(&right_dims[n + k..])]);
        let right = cx.reshape(&name("matrix_b"), right, matrix)?;
        let product = cx.emit(&name("product"), MatMul::default(), &[left, right])?;
        let mut dims = cx.value_ty(product).dims[..n].to_vec();
        dims.extend_from_slice(&left_dims[n..n + m]);
        dims.extend_from_slice(&right_dims[n + k..]);
        cx.reshape(&name("axes"), product, dims)?
    };
    Ok(Term { value, labels })
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    fn einsum(equation: &str, operands: &[&[&str]]) -> Model {
        let names = ["a", "b", "c"];
        let mut model = Model::new(12);
        for (name, dims) in names.iter().zip(operands) {
            model = model.input(name, DType::F32, dims);
        }
        model.node(
            "Einsum",
            &names[..operands.len()],
            &["y"],
            &[attr("equation", equation)],
        )
    }

    #[test]
    fn attention_scores_need_one_transpose() {
        let model = einsum(
            "bhqd,bhkd->bhqk",
            &[&["B", "8", "Q", "64"], &["B", "8", "K", "64"]],
        );
        insta::assert_snapshot!(model.graph("y"), @r"
        graph g(a: f32[B,8,Q,64], b: f32[B,8,K,64]) {
          %0 = transpose(b) perm=[0,1,3,2] : f32[B,8,64,K]  ; Einsum_y/0/order_b
          %1 = matmul(a, %0) : f32[B,8,Q,K]  ; Einsum_y/0/product
          return %1
        }
        ");
    }

    #[test]
    fn result_extents() {
        let ty = |equation: &str, operands: &[&[&str]]| einsum(equation, operands).output_type("y");
        assert_eq!(ty("ij->ji", &[&["2", "3"]]), "f32[3,2]");
        assert_eq!(ty("ij->", &[&["2", "3"]]), "f32[]");
        assert_eq!(ty("...ii->...i", &[&["2", "3", "3"]]), "f32[2,3]");
        assert_eq!(ty("iii->", &[&["3", "3", "3"]]), "f32[]");
        assert_eq!(ty("ij->i", &[&["2", "3"]]), "f32[2]");
        assert_eq!(ty("ij,jk", &[&["2", "3"], &["3", "4"]]), "f32[2,4]");
        assert_eq!(ty("i,j->ij", &[&["2"], &["3"]]), "f32[2,3]");
        assert_eq!(ty("i,i->", &[&["3"], &["3"]]), "f32[]");
        assert_eq!(
            ty("...ij,...jk->...ik", &[&["N", "2", "3"], &["3", "4"]]),
            "f32[N,2,4]"
        );
        assert_eq!(
            ty("nchw,nc->nc", &[&["2", "3", "4", "5"], &["2", "3"]]),
            "f32[2,3]"
        );
        assert_eq!(
            ty("ab,bc,cd->ad", &[&["2", "3"], &["3", "4"], &["4", "5"]]),
            "f32[2,5]"
        );
        assert_eq!(
            ty(
                " b i j , b j k -> b k i ",
                &[&["N", "2", "3"], &["N", "3", "4"]]
            ),
            "f32[N,4,2]"
        );
    }

    #[test]
    fn malformed_equations_are_refused() {
        let error = |equation: &str| einsum(equation, &[&["2", "2"]]).error("y");
        assert!(error("ijk->i").contains("names 3 axes of an operand of rank 2"));
        assert!(error("ij,jk->ik").contains("has 2 operands, but it has 1 inputs"));
        assert!(error("ij->ik").contains("which no operand has"));
        assert!(error("i1->i").contains("names 1 axes"));
        assert!(
            einsum("ij,jk->ik", &[&["2", "3"], &["4", "5"]])
                .error("y")
                .contains("contracted extents differ")
        );
    }
}
