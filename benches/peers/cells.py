"""Cells of Markdown tables, and the order of their rows."""
import math
import statistics

import workloads

# what two medians of the same thing may differ by
NOISE = 1.02


def of(rows, *kinds):
    return [row for row in rows if row["kind"] in kinds]


def number(x, unit=""):
    """Three digits that mean something; a dash for what was not measured."""
    if x is None:
        return "–"
    if x == 0:
        return f"0{unit}"
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:.{min(digits, 4)}f}{unit}"


def markdown(head, body):
    """A table; columns of numbers are aligned right."""
    def numeric(column):
        cells = [row[column] for row in body if row[column] != "–"]
        return bool(cells) and all(cell[:1].isdigit() for cell in cells)

    rule = ["--:" if numeric(i) else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body]) + "\n"


def order(model, shape):
    """The order of a model's shapes: that of the numbers in their labels."""
    known = [*workloads.NAMES, *workloads.FETCHED]
    key = known.index(model) if model in known else len(known)
    return (key, model, [int(n) if n.isdigit() else 0 for n in shape.split("×")], shape)


def median(values):
    """The median; None of nothing."""
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def mean(ratios):
    """The geometric mean; None of nothing."""
    ratios = [r for r in ratios if r]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def ratio(a, b):
    return a / b if a is not None and b else None


def verdict(what, value, limit, unit="", least=False):
    """A line that says whether a number keeps what was promised of it."""
    if value is None:
        return f"- not measured: {what}\n"
    kept = value >= limit if least else value <= limit
    bound = "at least" if least else "at most"
    return f"- {'kept' if kept else 'MISSED'}: {what}: {number(value, unit)}, promised {bound} {number(limit, unit)}\n"
