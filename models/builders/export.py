"""Exports the five fp16 models with random weights and symbolic dims, and their reference data.

    python3 models/builders/export.py --size small --out models/small          # the committed test models
    python3 models/builders/export.py --size full  --out target/full resnet    # as large as the originals

Each model becomes OUT/NAME/model.onnx (opset 20; `full` with external data), and for every shape of its table
OUT/NAME/test_data_set_k/{input,output}_i.pb. With `--reference fp32` a reference output is what PyTorch computes in fp32
from the same fp16 weights and fp16 inputs, rounded to fp16; with `--reference fp16` it is what PyTorch computes in fp16,
as it comes. `--device cuda` computes references on the GPU, which the full models need; the export itself is always
traced on the CPU. Needs the packages of requirements.txt next to this file.
"""
import argparse
import copy
import importlib
import pathlib
import shutil
import sys
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper

NAMES = ["resnet", "bert", "dit", "llm", "unet"]
SEED = 20
HERE = pathlib.Path(__file__).resolve().parent


def half(tensors):
    return tuple(t.half() if t.is_floating_point() else t for t in tensors)


def strip_traces(path):
    """Drops the stack traces that the exporter leaves in every node: they are large and name the folders of the
    machine that exported."""
    model = onnx.load(path, load_external_data=False)
    for graph in [model.graph] + [f for f in model.functions]:
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in graph.value_info:
            value.ClearField("metadata_props")
    for value in list(model.graph.input) + list(model.graph.output) + list(model.graph.initializer):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    onnx.save(model, path)


def write_set(folder, work, inputs, outputs):
    folder.mkdir(parents=True)
    for kind, names, tensors in (("input", work.inputs, inputs), ("output", work.outputs, outputs)):
        for i, (name, tensor) in enumerate(zip(names, tensors, strict=True)):
            array = np.ascontiguousarray(tensor.cpu().numpy())
            (folder / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())


def evaluate(module, inputs):
    with torch.no_grad():
        outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def references(work, module, folder, device, precision):
    """Writes a set for each shape. Returns how far PyTorch's fp16 is from fp32 on the same weights and inputs, as part of
    the largest element: what any fp16 implementation may be off by. It is None if fp16 was not computed."""
    # fp32 means fp32: cuDNN would round the operands of convolutions to TF32
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    module = module.to(device)
    exact = copy.deepcopy(module).float()
    gap = None
    for k, shape in enumerate(work.shapes):
        torch.manual_seed(SEED + 1 + k)
        inputs = tuple(t.to(device) for t in half(work.sample(shape)))
        # fp32 arithmetic on the fp16 weights and inputs; the result is rounded once, at the end
        outputs = evaluate(exact, tuple(t.float() if t.is_floating_point() else t for t in inputs))
        for name, output in zip(work.outputs, outputs, strict=True):
            peak = output.abs().max().item()
            if not (np.isfinite(peak) and peak < 1000):
                sys.exit(f"{folder.name} {shape}: {name} reaches {peak}, out of the range that fp16 holds well")
        if precision == "fp16":
            rounded = evaluate(module, inputs)
            for a, b in zip(rounded, outputs, strict=True):
                gap = max(gap or 0.0, ((a.float() - b).abs().max() / b.abs().max()).item())
            outputs = rounded
        write_set(folder / f"test_data_set_{k}", work, inputs, half(outputs))
    return gap


def compare(folder, work):
    """Runs the file in ONNX Runtime against the references, as a check of the export itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for data in sorted(folder.glob("test_data_set_*")):
        def load(kind, count):
            return [numpy_helper.to_array(onnx.load_tensor(str(data / f"{kind}_{i}.pb"))) for i in range(count)]

        got = session.run(work.outputs, dict(zip(work.inputs, load("input", len(work.inputs)))))
        for name, a, b in zip(work.outputs, got, load("output", len(work.outputs))):
            error = np.abs(a.astype(np.float32) - b.astype(np.float32)).max() / np.abs(b).max()
            if not error <= 2e-2:
                sys.exit(f"{data}: {name} differs by {error:.2e} of its largest element; the export is wrong")
            worst = max(worst, float(error))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--no-data", action="store_true", help="models only, without reference data")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where references are computed")
    parser.add_argument("--reference", choices=["fp32", "fp16"], default="fp32", help="in what precision")
    parser.add_argument("--no-compare", action="store_true",
                        help="do not run the file in ONNX Runtime, which takes minutes for a full model")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device: leave --device away, or see what nvidia-smi says")

    sys.path.insert(0, str(HERE))
    for name in args.names or NAMES:
        start = time.time()
        torch.manual_seed(SEED)
        work = importlib.import_module(name).build(args.size)
        module = work.module.half().eval().requires_grad_(False)
        folder = args.out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path = folder / "model.onnx"
        torch.onnx.export(module, half(work.example), path, dynamo=True, dynamic_shapes=work.dynamic,
                          input_names=work.inputs, output_names=work.outputs, opset_version=20,
                          external_data=args.size == "full", optimize=True, verbose=False)
        strip_traces(path)
        line = f"{name}: {sum(p.numel() for p in module.parameters()) / 1e6:.2f} M weights"
        if not args.no_data:
            gap = references(work, module, folder, args.device, args.reference)
            if gap is not None:
                line += f", fp16 differs from fp32 by {gap:.1e} of the largest element"
            if not args.no_compare:
                line += f", ONNX Runtime differs by {compare(folder, work):.1e} of the largest element"
        print(f"{line}, {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
