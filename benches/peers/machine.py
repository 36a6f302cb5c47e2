"""What the numbers of a run depend on: the machine, its driver, and who was timed in which version."""
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def ask(*command):
    """What a command prints, in one line; `unknown` where it cannot be asked."""
    try:
        out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=30, check=True).stdout
        return "; ".join(out.strip().splitlines())
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version(package):
    """The version of an installed Python package, or `none`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def facts(bespoke):
    """The facts that every page begins with, by name; `bespoke` is the program that was timed."""
    return {
        "date": datetime.date.today().isoformat(),
        "GPU, driver, memory": ask("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"),
        "processors": f"{os.cpu_count()} × {platform.machine()}",
        "bespoke": ask(bespoke, "--version"),
        "commit": ask("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "Python": platform.python_version(),
    }
