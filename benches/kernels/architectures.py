"""Registers and spills of the kernels of models, on architectures that need not be there.

    python3 benches/kernels/architectures.py FOLDER [MODEL…] [--bespoke PROGRAM] [--output FOLDER] [--archs LIST] [--size full|small]

FOLDER holds a folder for each model, as benches/peers/run_all.py exports them (target/full); MODEL defaults to those of
workloads.py that are there. `bespoke prebuild` compiles what each is served with at its points of workloads.py, which needs
NVRTC but no GPU, and this prints a table: the kernels, the most registers of a thread, and those that spill, with the bytes of
stores and loads and their specifications. The kernels stay in the output folder, so that a second run compiles what has changed.

Ends with 1 if a kernel spills or does not compile.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "peers"))
import workloads  # noqa: E402

ARCHS = "sm_75,sm_80,sm_86,sm_89,sm_90a,sm_100,sm_120"


def prebuild(program, folder, model, archs, size, output):
    """What `bespoke prebuild` says of a model at its points."""
    command = [program, "prebuild", str(folder / model), "--target", archs, "--output", str(output / model), "--json"]
    for shapes in workloads.points(model, size):
        command += ["--shapes", workloads.flag(shapes)]
    run = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(run.stdout)
    except json.JSONDecodeError:
        raise SystemExit(f"{model}: bespoke prebuild ended with {run.returncode}: {run.stderr.strip()}")


def spilling(target):
    """The kernels of an architecture that spill: bytes of stores, of loads, specification; each once."""
    bad = {(k["spill_store_bytes"], k["spill_load_bytes"], k["spec"]) for k in target["kernels"]}
    return sorted((row for row in bad if row[0] or row[1]), reverse=True)


def rows(model, report):
    """Lines of the table, each with how many kernels spill or fail."""
    for target in report["targets"]:
        bad = [f"{stores}/{loads}: `{spec.replace('|', '¦')}`" for stores, loads, spec in spilling(target)]
        bad += [f"failed: {json.dumps(failed)}".replace("|", "¦") for failed in target["failed"]]
        most = max((k["registers"] for k in target["kernels"]), default=0)
        yield f"| {model} | {target['arch']} | {len(target['kernels'])} | {most} | {'<br>'.join(bad) or 'none'} |", len(bad)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--bespoke", default=str(ROOT / "target" / "release" / "bespoke"))
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "target" / "architectures")
    parser.add_argument("--archs", default=ARCHS)
    parser.add_argument("--size", choices=["full", "small"], default="full")
    options = parser.parse_args()
    known = workloads.NAMES + workloads.FETCHED
    models = options.models or [name for name in known if (options.folder / name).exists()]
    if not models or not set(models) <= set(known):
        parser.error(f"models are some of {', '.join(known)}, in {options.folder}")
    print("| model | architecture | kernels | most registers | kernels that spill: bytes stored/loaded |")
    print("|---|---|---:|---:|---|")
    wrong = 0
    for model in models:
        report = prebuild(options.bespoke, options.folder, model, options.archs, options.size, options.output)
        for line, bad in rows(model, report):
            print(line, flush=True)
            wrong += bad
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
