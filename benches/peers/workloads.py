"""The five full models as every measurement here sees them: how they are built, what a shape is called.

The models and their shapes are those of models/builders; this module adds no others. A *label* is the name of a shape in
tables (`8×128`); it is derived from the extents of the inputs, so that lines of different programs can be matched.
"""
import importlib
import pathlib
import sys

BUILDERS = pathlib.Path(__file__).resolve().parents[2] / "models" / "builders"

# extents of the inputs by name -> the extents that vary
VARYING = {
    "resnet": lambda s: (s["x"][0], *s["x"][2:]),
    "bert": lambda s: s["input_ids"],
    "dit": lambda s: (s["x"][1],),
    "llm": lambda s: (s["past_k"][1], s["past_k"][3]),
    "unet": lambda s: s["sample"][2:],
    "ppocrv4_rec": lambda s: (s["x"][0], s["x"][3]),
}
NAMES = ["resnet", "bert", "dit", "llm", "unet"]

# what the extents in a label are
LEGEND = {
    "resnet": "batch × height × width",
    "bert": "batch × sequence",
    "dit": "tokens",
    "llm": "batch × length of the cache",
    "unet": "height × width of the latent, batch 2",
    "ppocrv4_rec": "batch × width",
}


def label(model, shapes):
    """What tables call a shape; `shapes` maps the model's input names to extents."""
    varying = VARYING.get(model)
    if varying:
        return "×".join(str(n) for n in varying(shapes))
    return ", ".join(f"{name} {'×'.join(map(str, dims))}" for name, dims in shapes.items())


def build(model, size="full"):
    """The builder's `Workload`. Importing it needs PyTorch, which this module alone does not."""
    if str(BUILDERS) not in sys.path:
        sys.path.insert(0, str(BUILDERS))
    return importlib.import_module(model).build(size)
