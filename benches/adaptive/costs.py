"""The cost tables of models, as pages: what every kernel takes to compile and gains when it runs.

    costs  `bespoke costs` at the shape that an engine would be tuned for; a Markdown file a model in the output folder
"""
import workloads
from cells import number, of
from steps import read_json

LIMITS = {"costs": 180}
MODELS = ["dit", "unet"]


def costs(ctx):
    for name in ctx.names("costs", MODELS):
        page, document = (ctx.recorder.out / f"costs-{name}.{end}" for end in ("md", "json"))
        ctx.run("costs", name, [
            ctx.bespoke, "costs", ctx.file(name), "--shapes", workloads.flag(workloads.opt(name, ctx.size)), *ctx.place(),
            "--workers", ctx.args.costs_workers, "--launches", 5, "--export-markdown", page, "--export-json", document,
            "--quiet"])
        points = (read_json(document) or {}).get("points", [])
        for point in points:
            ctx.emit(kind="costs", model=name, shape=workloads.label(name, workloads.opt(name, ctx.size)), page=page.name,
                     sums=point.get("sums"))


def costs_table(rows):
    text = ""
    for row in of(rows, "costs"):
        sums = ", ".join(f"{k} {number(v) if isinstance(v, (int, float)) else v}" for k, v in (row["sums"] or {}).items()
                         if isinstance(v, (int, float)))
        text += f"- {row['model']} at {row['shape']}: [{row['page']}]({row['page']}): {sums}\n"
    return text
