"""Winograd's kernels of this tree against those of an older commit: ``python benchmarks/kernels.py COMMIT``, in a git checkout.

3×3 convolutions of padding 1, in both memory orders, on one thread: forward, and the gradients by the input and by the weight. Both
versions are compiled into one program (kernels.cpp), the older one twice for an A/A column. They compute on the same memory in turns
shuffled anew, so that what is small can be told: separate processes differ by up to a tenth through where their pages lie. Told are
medians over the turns, and the older version's over them (below 1: this tree is slower).
The commit must have the same ``ConvShape`` and ``ConvKernels`` (csrc/kernels/conv.h), or it does not compile.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("winograd", "direct")  # what is out of bounds goes to the direct sum
FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fno-math-errno", "-Wno-psabi"]  # as CMakeLists.txt has them
VECTORS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
}


def build(commit: str, isa: str, folder: Path) -> Path:
    """The program, with namespaces ``old``, ``old_again`` and ``tree``."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "csrc"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    objects = []
    for version, csrc in (("old", folder / "csrc"), ("old_again", folder / "csrc"), ("tree", ROOT / "csrc")):
        for source in SOURCES:
            objects.append(folder / f"{version}_{source}.o")
            what = ["-c", str(csrc / "kernels" / f"{source}.cpp"), "-o", str(objects[-1])]
            subprocess.run(["g++", *FLAGS, *VECTORS[isa], f"-DSTRIATE_ISA={version}", *what], check=True)
    names = "-DVERSIONS=STRIATE_VERSION(old) STRIATE_VERSION(old_again) STRIATE_VERSION(tree)"
    program, driver = folder / "kernels", ROOT / "benchmarks" / "kernels.cpp"
    subprocess.run(["g++", "-std=c++20", "-O2", names, str(driver), *map(str, objects), "-o", str(program)], check=True)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("commit", help="the older version, as git names it")
    parser.add_argument("--turns", type=int, default=101, help="of each version (default: %(default)s)")
    arguments = parser.parse_args()
    about = Path("/proc/cpuinfo").read_text()
    isa = "avx512" if "avx512vl" in about else "avx2"
    processor = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in about.splitlines())}
    print(f"{processor['model name']}, family {processor['cpu family']} model {processor['model']}, {isa}, one thread")
    print(f"{'map':8} {'batch':>5} {'channels':>8} {'size':>4} {'memory order':13} {'ms before':>9} {'A/A':>6} {'old/new':>7}")
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = build(arguments.commit, isa, Path(folder))
        with subprocess.Popen([str(program), str(arguments.turns)], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                name, batch, channels, size, order, *seconds = line.strip().split(",")
                old, again, new = map(float, seconds)
                ratios.setdefault(name, []).append(old / new)
                told = f"{name:8} {batch:>5} {channels:>8} {size:>4} {order:13}"
                print(f"{told} {old * 1e3:9.3f} {old / again:6.3f} {old / new:7.3f}", flush=True)
    for name, of in ratios.items():
        print(f"{name}: median old/new {statistics.median(of):.3f}")
    if run.returncode:
        raise SystemExit(f"the program ended with {run.returncode}")


if __name__ == "__main__":
    main()
