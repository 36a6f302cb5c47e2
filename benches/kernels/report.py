"""What the tables of all kinds share: rows by case, ratios, errors, what was left out.

Rows are JSON lines with a `kind`; all but `machine`, `bandwidth` and `step` name a case by {table, operator, shape}:

    machine    what the numbers were measured on
    bandwidth  {bytes_per_s} of a copy by PyTorch, read and written
    case       {flops, bytes, copies}: of one call, and how many of them a model and a graph have
    vendor     PyTorch: {way, us}, a call's part of graphs that follow each other
    ours       bespoke: {us} the same; {wall_us, fastest_us} a call's part of a run that is awaited, median and least; {steps} of
               all copies, {generic} of them; {compiled, tiles_won, warnings, …} as `bespoke bench` says
    error      {who, max, rms}; see errors.py
    step       a process that ran: {step, what, seconds, outcome}
    skip, fail what was not measured, with its reason
"""
import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "peers"))

from cells import markdown, mean, number, of


def read(files):
    """The rows of files; what is no row is said and left out, as a process that was stopped may leave half a line."""
    rows = []
    for file in files:
        for line in file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                print(f"note: {file} has a line that is no row: {line[:60]}", file=sys.stderr)
    return rows


def key(row):
    return row["operator"], row["shape"]


class Results:
    """The rows of one table by case, a later row of the same thing over an earlier one."""

    def __init__(self, rows, table):
        own = [r for r in rows if r.get("table") == table]
        self.cases = {key(r): r for r in of(own, "case")}
        self.ours = {key(r): r for r in of(own, "ours")}
        self.vendor, self.errors, self.failed = {}, {}, {}
        for row in of(own, "vendor"):
            self.vendor.setdefault(key(row), {})[row["way"]] = row["us"]
        for row in of(own, "error"):
            self.errors.setdefault(key(row), {})[row["who"]] = row
        for row in of(own, "fail"):
            if "way" in row:
                self.failed[key(row), row["way"]] = row["reason"]
        self.bandwidth = next((r["bytes_per_s"] for r in reversed(rows) if r["kind"] == "bandwidth"), None)

    def __iter__(self):
        """The cases: name, row, bespoke's microseconds, PyTorch's best. What was not measured is None."""
        for name, case in self.cases.items():
            yield name, case, self.ours.get(name, {}).get("us"), min(self.vendor.get(name, {}).values(), default=None)

    def ways(self):
        """Those in which PyTorch was timed, or refused to be."""
        tried = [w for found in self.vendor.values() for w in found] + [w for _, w in self.failed]
        return list(dict.fromkeys(tried))

    def way(self, name, way):
        """A cell: microseconds, or that it failed."""
        us = self.vendor.get(name, {}).get(way)
        return "refused" if us is None and (name, way) in self.failed else number(us)

    def steps(self, name):
        """A cell: steps that one copy takes of bespoke's, and a mark if kernels are not those of the shape."""
        row = self.ours.get(name)
        if not row:
            return "–"
        return f"{row['steps'] / self.cases[name]['copies']:.3g}{' generic' if row['generic'] else ''}"

    def per_second(self, name, what, us, unit=1e12):
        """Units a second of `flops` or `bytes`."""
        return self.cases[name][what] / us * 1e6 / unit if us else None

    def share(self, name, us):
        """A cell: the part of a copy's bandwidth."""
        if not us or not self.bandwidth:
            return "–"
        return f"{self.per_second(name, 'bytes', us, 1) / self.bandwidth * 100:.0f} %"


def ratio(ours, theirs):
    return ours / theirs if ours and theirs else None


def summary(results, group=lambda name: None):
    """The geometric mean of the ratios, of each group too if there are several."""
    groups, every = {}, []
    for name, _, ours, theirs in results:
        if found := ratio(ours, theirs):
            every.append(found)
            groups.setdefault(group(name), []).append(found)
    if not every:
        return "\nNo ratio: one of the two sides was not measured.\n"
    text = (f"\nRatio: bespoke to the best of PyTorch's; below 1 is faster. Geometric mean of {len(every)} ratios: "
            f"{number(mean(every))}; {sum(r <= 1 for r in every)} at most 1, the largest {number(max(every))}.")
    if len(groups) > 1:
        text += " Of these, " + ", ".join(f"{g}: {number(mean(r))}" for g, r in groups.items()) + "."
    return text + "\n"


def power(x):
    return "–" if x is None else f"{x:.1e}"


def errors(results):
    """Errors of everybody against float64; nothing if none were asked for."""
    body, ratios = [], []
    for name, found in results.errors.items():
        ours = found.get("bespoke")
        for who, row in found.items():
            if who != "bespoke" and ours and row["rms"]:
                ratios.append(ours["rms"] / row["rms"])
            body.append([*name, who, power(row["max"]), power(row["rms"])])
    if not body:
        return ""
    text = "\n" + markdown(["operator", "shape", "who", "max", "rms"], body) + (
        "\nErrors against float64 on the same random operands: the largest by the reference's largest element, and root mean "
        "squares.")
    if ratios:
        text += f" bespoke's rms to PyTorch's: geometric mean {number(mean(ratios))}, the largest {number(max(ratios))}."
    return text + "\n"


def machine(rows):
    """The last description of the machine."""
    last = of(rows, "machine")[-1:]
    text = "".join(f"- {k}: {v}\n" for row in last for k, v in row.items() if k != "kind")
    found = of(rows, "bandwidth")[-1:]
    return text + "".join(f"- copy of 256 MiB: {number(r['bytes_per_s'] / 1e12)} TB/s, read and written\n" for r in found)


def left_out(rows):
    """What was not measured, and why; what was, and how long all of it took."""
    text = ""
    for row in of(rows, "skip", "fail"):
        said = [str(row[k]) for k in ("table", "step", "what", "operator", "shape", "who", "way") if k in row]
        what = " ".join(word for i, word in enumerate(said) if word not in said[:i])
        text += f"- {'skipped' if row['kind'] == 'skip' else 'failed'}: {what}: {row['reason']}\n"
    seconds = {}
    for row in of(rows, "step"):
        seconds[row["step"]] = seconds.get(row["step"], 0) + row["seconds"]
    text += "".join(f"- processes of {step}: {spent:.0f} s in all\n" for step, spent in seconds.items())
    warned = {}
    for row in of(rows, "ours"):
        # no percentile is reported
        for code in set(row["warnings"]) - {"few-for-percentile"}:
            warned.setdefault(code, []).append(" ".join(key(row)))
    return text + "".join(f"- warned of {code}: {', '.join(names)}\n" for code, names in warned.items())
