"""The table of errors of random specs, from rows.

    spec   {template, type, spec, exact, row}: what was drawn; see spec.py
    error  {template, type, spec, who, elements, max, rms}; `who` is `generic`, `specialised` or `torch`; see errors.py
    ran    {template, type, tier, specs, generic, specialised}: a process, and how many of its kernels were which
    fail   {template, type, spec, who, reason}; rows of other kinds are those of report.py

A spec is kept if bespoke's rms is at most 1.05 + 3/√n times PyTorch's, or what rounding to the type costs if that is more.

1.05 is for sums in another order. The rest are three deviations of chance: the rms of n errors has a relative deviation of
1/√(2n) where they are normal, so the ratio of two has 1/√n. With a hundred results one side may be a third above the other by
chance, with a million hardly at all. In 16 bits n is the number of results, as each has a rounding of its own; in fp32 the results
of a row share the error of its mean or sum, and n is the number of rows. Where nothing is rounded, as in a largest element, every
result must be the exact one.
"""
import math
import statistics

from floats import TYPES
from report import left_out, machine, markdown, mean, number, of, power

PART, DEVIATIONS = 1.05, 3
TIERS = ("generic", "specialised")
HEAD = ["template", "type", "specs", "kernels a spec", "type's", "PyTorch median", "worst", "generic median", "worst",
        "specialised median", "worst", "worst ratio", "at most", "of", "verdict"]


class Found:
    """What was found of one spec."""

    def __init__(self, row):
        self.template, self.type, self.text, self.exact = (row[k] for k in ("template", "type", "spec", "exact"))
        self.row = row["row"] if self.type == "fp32" else 1
        self.rms, self.elements = {}, 1

    def add(self, row):
        # what is not a number is no small error
        self.rms[row["who"]] = row["rms"] if math.isfinite(row["rms"]) else math.inf
        self.elements = max(1, row["elements"])

    @property
    def theirs(self):
        """PyTorch's rms, or what rounding costs if that is more: few results may be near theirs by chance."""
        return None if "torch" not in self.rms else 0.0 if self.exact else max(self.rms["torch"], TYPES[self.type].unit)

    def ratio(self, tier):
        if tier not in self.rms or self.theirs is None:
            return None
        if self.theirs == 0:
            return 1.0 if self.rms[tier] == 0 else math.inf
        return self.rms[tier] / self.theirs

    @property
    def most(self):
        return 1.0 if self.exact else PART + DEVIATIONS / max(1, self.elements / self.row) ** 0.5

    @property
    def worst(self):
        """The tier with the largest ratio, and that; None if there is none."""
        return max(((self.ratio(t), t) for t in TIERS if self.ratio(t) is not None), default=None)

    @property
    def excess(self):
        """The worst ratio by what it may be; above 1 the spec misses."""
        return self.worst[0] / self.most

    @property
    def missed(self):
        return self.worst is not None and self.excess > 1


def specs(rows):
    """All that were drawn, with what was found of them."""
    def key(row):
        return tuple(row.get(k) for k in ("template", "type", "spec"))

    found = {key(row): Found(row) for row in of(rows, "spec")}
    for row in of(rows, "error"):
        found[key(row)].add(row)
    return [*found.values()]


def part(ratio):
    return "∞" if ratio == math.inf else number(ratio)


def spread(own, who):
    """Cells: median and worst."""
    values = [f.rms[who] for f in own if who in f.rms]
    return [power(statistics.median(values)), power(max(values))] if values else ["–", "–"]


def verdict(own):
    """A cell: whether all are kept, and how many were not compared in every tier."""
    judged = [f for f in own if f.worst]
    if not judged:
        return "–"
    missed, partly = sum(f.missed for f in judged), sum(any(f.ratio(t) is None for t in TIERS) for f in own)
    return (f"MISS {missed}" if missed else "kept") + (f", {partly} not compared" if partly else "")


def kernels(rows):
    """By template and type, how many kernels a spec has; a cell each."""
    counted = {}
    for row in of(rows, "ran"):
        counted.setdefault((row["template"], row["type"]), []).append((row["generic"] + row["specialised"], row["specs"]))
    return {key: number(sum(k for k, _ in found) / sum(n for _, n in found)) for key, found in counted.items()}


def line(own, steps):
    """The row of a template and type; `steps` is the cell of its kernels."""
    worst = max((f for f in own if f.worst), key=lambda f: f.excess, default=None)
    cells = ["–"] * 3 if worst is None else [part(worst.worst[0]), number(worst.most), f"{worst.worst[1]}: {worst.text}"]
    ours = sum(any(t in f.rms for t in TIERS) for f in own)
    errors = [cell for who in ("torch", *TIERS) for cell in spread(own, who)]
    return [own[0].template, own[0].type, str(ours), steps, power(TYPES[own[0].type].unit), *errors, *cells, verdict(own)]


def missed(found):
    """Each spec that is not kept."""
    body = [[f.template, f.type, f.text, str(f.elements), power(f.rms["torch"]), *(power(f.rms.get(t)) for t in TIERS),
             part(f.worst[0]), number(f.most)] for f in found if f.missed]
    head = ["template", "type", "spec", "results", "PyTorch", *TIERS, "ratio", "at most"]
    return f"\n## Specs that miss\n\n{markdown(head, body)}" if body else ""


def summary(found):
    judged = [f for f in found if f.worst]
    if not judged:
        return "\nNo ratio: PyTorch was not asked.\n"
    text = f"\n{sum(not f.missed for f in judged)} of {len(judged)} specs kept."
    for tier in TIERS:
        ratios = [f.ratio(tier) for f in judged if f.ratio(tier) and f.ratio(tier) < math.inf]
        text += f" Geometric mean of {tier} kernels' ratios: {number(mean(ratios))}."
    return text + (
        "\n\nErrors are root mean squares by that of the reference. `type's` is what rounding costs on average. Kept: at most "
        f"{PART:g} + {DEVIATIONS}/√n times PyTorch's, or the type's if that is more; n are the results, in fp32 their rows. Where "
        "nothing is rounded: the exact result. The worst ratio is the one that is highest by what it may be.\n")


def ran(rows):
    """How many kernels were of which tier; a tier of other kernels than its own is said."""
    text = ""
    for tier in TIERS:
        own = [r for r in of(rows, "ran") if r["tier"] == tier]
        counts = {kind: sum(r[kind] for r in own) for kind in TIERS}
        other = TIERS[1 - TIERS.index(tier)]
        text += f"- {tier}: {counts[tier]} kernels for {sum(r['specs'] for r in own)} specs"
        text += f", and {counts[other]} that are {other}\n" if counts[other] else "\n"
    return text


def named(row):
    """A row that says what it is of as report.py reads it."""
    said = [row[k] for k in ("template", "type", "spec") if k in row]
    return dict(row, what=" ".join(said)) if said else row


def page(rows):
    """Everything that has rows, each under its heading."""
    found = specs(rows)
    groups = {}
    for f in found:
        groups.setdefault((f.template, f.type), []).append(f)
    groups = {key: own for key, own in groups.items() if any(f.rms for f in own)}
    text = f"## Machine\n\n{machine(rows)}"
    if groups:
        counted = kernels(rows)
        body = [line(own, counted.get(key, "–")) for key, own in groups.items()]
        text += f"\n## Errors against float64\n\n{markdown(HEAD, body)}{summary(found)}"
        text += missed(found) + f"\n## What ran\n\n{ran(rows)}"
    left = left_out([named(r) for r in rows])
    return text + (f"\n## What was left out, and processes\n\n{left}" if left else "")
