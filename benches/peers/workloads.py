"""The models as every measurement here sees them: their shapes, what a shape is called, how they are built.

A *point* is what varies of a shape, (8, 128) for bert; `dims` makes the extents of all inputs of it. A *label* is the name of
a point in tables (`8×128`); it is derived from the extents, so that lines of different programs can be matched. The points at
which models are timed are those of models/builders; `OPT` are those that an engine built ahead would be tuned for, and
`AWAY` are twenty others each, as requests of a service may have them.
"""
import importlib
import json
import pathlib
import random
import sys

BUILDERS = pathlib.Path(__file__).resolve().parents[2] / "models" / "builders"
NAMES = ["resnet", "bert", "dit", "llm", "unet"]
# models that are fetched, not built, and have one size only
FETCHED = ["ppocrv4_rec"]

# what of a model's size is in its extents: width and head of dit; layers, heads and head of llm's cache; context of unet
SIZES = {
    "full": {"dit": (3072, 128), "llm": (16, 8, 128), "unet": (77, 1024)},
    "small": {"dit": (96, 32), "llm": (2, 2, 16), "unet": (11, 32)},
}
POINTS = {
    "full": {
        "resnet": [(1, 224, 224), (8, 224, 224), (32, 224, 224), (1, 480, 640)],
        "bert": [(1, 37), (1, 128), (8, 128), (32, 384)],
        "dit": [(1280,), (1536,), (4352,)],
        "llm": [(1, 200), (1, 1000), (8, 1000)],
        "unet": [(64, 64), (96, 96), (64, 96)],
        "ppocrv4_rec": [(1, 320), (4, 480)],
    },
    "small": {
        "resnet": [(1, 64, 64), (2, 96, 64), (3, 64, 128)],
        "bert": [(1, 37), (3, 16), (2, 128)],
        "dit": [(24,), (80,), (150,)],
        "llm": [(1, 5), (2, 64), (3, 33)],
        "unet": [(16, 16), (16, 40), (32, 24)],
        "ppocrv4_rec": [(1, 320), (4, 480)],
    },
}
OPT = {
    "full": {"resnet": (8, 224, 224), "bert": (8, 128), "dit": (1536,), "llm": (1, 512), "unet": (64, 64),
             "ppocrv4_rec": (1, 320)},
    "small": {"resnet": (1, 64, 64), "bert": (3, 16), "dit": (80,), "llm": (1, 32), "unet": (16, 16),
              "ppocrv4_rec": (1, 320)},
}
AWAY = {
    "full": {
        "bert": [(1, 16), (1, 37), (1, 64), (1, 96), (1, 128), (1, 200), (1, 256), (1, 384), (1, 512), (2, 32), (2, 77),
                 (2, 150), (4, 48), (4, 96), (4, 256), (16, 37), (16, 64), (16, 128), (32, 64), (32, 100)],
        "llm": [(1, 16), (1, 64), (1, 128), (1, 200), (1, 300), (1, 400), (1, 777), (1, 1000), (1, 1500), (2, 100), (2, 300),
                (2, 500), (4, 32), (4, 64), (4, 128), (4, 250), (8, 16), (8, 50), (8, 100), (8, 128)],
        "unet": [(32, 32), (32, 40), (32, 48), (40, 40), (40, 56), (48, 48), (48, 64), (48, 72), (56, 56), (56, 72),
                 (64, 48), (64, 80), (72, 56), (72, 72), (80, 64), (80, 80), (64, 96), (96, 64), (88, 72), (96, 96)],
        "ppocrv4_rec": [(1, 160), (1, 200), (1, 256), (1, 373), (1, 480), (1, 560), (1, 640), (1, 862), (1, 1000), (1, 1280),
                        (2, 240), (2, 400), (2, 640), (4, 320), (4, 480), (4, 800), (6, 320), (6, 640), (8, 320), (8, 480)],
    },
    "small": {
        "bert": [(b, n) for b in (1, 2, 4, 5) for n in (8, 17, 24, 33, 64)],
        "llm": [(b, p) for b in (1, 2, 4, 5) for p in (4, 8, 17, 33, 64)],
        "unet": [(16, 24), (24, 16), (24, 24), (24, 32), (32, 16)],
        "ppocrv4_rec": [(1, 160), (1, 256), (1, 480), (2, 240)],
    },
}

# extents of the inputs by name -> the extents that vary
VARYING = {
    "resnet": lambda s: (s["x"][0], *s["x"][2:]),
    "bert": lambda s: s["input_ids"],
    "dit": lambda s: (s["x"][1],),
    "llm": lambda s: (s["past_k"][1], s["past_k"][3]),
    "unet": lambda s: s["sample"][2:],
    "ppocrv4_rec": lambda s: (s["x"][0], s["x"][3]),
}
# what the extents in a label are
LEGEND = {
    "resnet": "batch × height × width",
    "bert": "batch × sequence",
    "dit": "tokens",
    "llm": "batch × length of the cache",
    "unet": "height × width of the latent, batch 2",
    "ppocrv4_rec": "batch × width",
}


def dims(model, point, size="full"):
    """The extents of all inputs at a point, by name."""
    sizes = SIZES[size].get(model)
    if model == "resnet":
        return {"x": (point[0], 3, *point[1:])}
    if model == "bert":
        return {name: tuple(point) for name in ("input_ids", "attention_mask")}
    if model == "dit":
        (width, head), (n,) = sizes, point
        return {"x": (1, n, width), "v": (1, width), "cos": (n, head), "sin": (n, head)}
    if model == "llm":
        (layers, heads, head), (batch, past) = sizes, point
        cache = (layers, batch, heads, past, head)
        return {"ids": (batch, 1), "cos": (1, head), "sin": (1, head), "past_k": cache, "past_v": cache}
    if model == "unet":
        return {"sample": (2, 4, *point), "timestep": (1,), "ctx": (2, *sizes)}
    if model == "ppocrv4_rec":
        return {"x": (point[0], 3, 48, point[1])}
    raise KeyError(model)


def points(model, size="full"):
    """The extents at each of the points at which a model is timed."""
    return [dims(model, point, size) for point in POINTS[size][model]]


def opt(model, size="full"):
    return dims(model, OPT[size][model], size)


def away(model, size="full", count=20):
    return [dims(model, point, size) for point in AWAY[size][model][:count]]


def label(model, shapes):
    """What tables call a shape; `shapes` maps the model's input names to extents."""
    varying = VARYING.get(model)
    if varying:
        return "×".join(str(n) for n in varying(shapes))
    return ", ".join(f"{name} {'×'.join(map(str, extents))}" for name, extents in shapes.items())


def flag(shapes):
    """Extents as `--shapes` takes them."""
    return ",".join(f"{name}:{'x'.join(map(str, extents))}" for name, extents in shapes.items())


def parse(text):
    """The inverse of `flag`."""
    parts = (part.rpartition(":") for part in text.split(","))
    return {name: tuple(int(n) for n in extents.split("x")) for name, _, extents in parts}


def write_trace(file, requests):
    """Writes a shape trace; a request is extents, or a pair of the second at which it comes and extents."""
    with open(file, "w") as out:
        out.write(json.dumps({"trace": "shapes", "v": 1, "source": "workloads", "source_version": 1, "params": {}}) + "\n")
        for seq, request in enumerate(requests):
            at, shapes = request if isinstance(request, tuple) else (0, request)
            out.write(json.dumps({"seq": seq, "at_us": round(at * 1e6), "dims": shapes}) + "\n")
    return file


def read_trace(file):
    """The extents of a trace's requests, in order."""
    header, *lines = pathlib.Path(file).read_text().splitlines()
    head = json.loads(header)
    if head.get("trace") != "shapes" or head.get("v") != 1:
        raise ValueError(f"{file} is no shape trace of version 1")
    requests = sorted((json.loads(line) for line in lines if line.strip()), key=lambda r: r["seq"])
    return [{name: tuple(extents) for name, extents in r["dims"].items()} for r in requests]


def shuffled(shapes, count, seed=0):
    """`count` requests, each shape as often as the others, in an order of chance that is always the same."""
    requests = [shapes[i % len(shapes)] for i in range(count)]
    random.Random(seed).shuffle(requests)
    return requests


def build(model, size="full"):
    """The builder's `Workload`. Importing it needs PyTorch, which this module alone does not."""
    if str(BUILDERS) not in sys.path:
        sys.path.insert(0, str(BUILDERS))
    return importlib.import_module(model).build(size)
