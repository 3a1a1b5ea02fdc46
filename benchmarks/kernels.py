"""Times Winograd's kernels of this tree against those of an older commit: ``python benchmarks/kernels.py COMMIT``, in a
git checkout.

The cases are 3×3 convolutions of padding 1, in both memory orders, on one thread: forward, and the gradients by the
input and by the weight. Both versions are compiled into one program (kernels.cpp), the older one twice for an A/A
column. They compute on the same memory in an order shuffled each turn, so that small differences are visible: separate
processes differ by up to a tenth because of the placement of their pages. Equal loops differ as much because of their
placement in the code, so there are three programs, in which each version is linked first, second and last. Reported are
medians over the turns, their mean over the programs, and the older version's over this tree's (below 1: this tree is
slower). The commit must have the same ``ConvShape`` and ``ConvKernels`` (csrc/kernels/conv/conv.h), or it does not
compile.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

import striate
from striate.measure import processor

ROOT = Path(__file__).parent.parent
SOURCES = ("winograd", "direct")  # Winograd's kernels call direct's for images whose values are out of bounds
FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fno-math-errno", "-Wno-psabi"]  # as CMakeLists.txt has them
VECTORS = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
}


def build(commit: str, isa: str, folder: Path) -> list[Path]:
    """Builds the programs, with the versions in namespaces ``old``, ``again`` and ``tree``."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "csrc"], check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    objects: dict[str, list[str]] = {}
    for version, csrc in (("old", folder / "csrc"), ("again", folder / "csrc"), ("tree", ROOT / "csrc")):
        objects[version] = [str(folder / f"{version}_{source}.o") for source in SOURCES]
        for source, target in zip(SOURCES, objects[version], strict=True):
            (path,) = (csrc / "kernels").rglob(f"{source}.cpp")  # older commits have other folders
            what = ["-I", str(csrc), "-c", str(path), "-o", target]
            subprocess.run(["g++", *FLAGS, *VECTORS[isa], f"-DSTRIATE_ISA={version}", *what], check=True)
    driver, names = folder / "driver.o", " ".join(f"STRIATE_VERSION({version})" for version in objects)
    source = ["-I", str(ROOT / "csrc"), "-c", str(ROOT / "benchmarks" / "kernels.cpp"), "-o", str(driver)]
    subprocess.run(["g++", "-std=c++20", "-O2", f"-DVERSIONS={names}", *source], check=True)
    machine = folder / "machine.o"  # one for all versions; older ones do not ask
    source = ["-I", str(ROOT / "csrc"), "-c", str(ROOT / "csrc" / "core" / "machine.cpp"), "-o", str(machine)]
    subprocess.run(["g++", "-std=c++20", "-O2", *source], check=True)
    programs, order = [], list(objects)
    for k in range(len(order)):
        programs.append(folder / f"kernels{k}")
        linked = [target for version in order[k:] + order[:k] for target in objects[version]]
        subprocess.run(["g++", str(driver), str(machine), *linked, "-o", str(programs[-1])], check=True)
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("commit", help="the older version, as git names it")
    parser.add_argument(
        "--turns", type=int, default=101, help="turns of each version in each program (default: %(default)s)"
    )
    arguments = parser.parse_args()
    isa = striate.native_info()["isa"]
    if isa not in VECTORS:
        raise SystemExit(f"expected {' or '.join(VECTORS)}, got {isa}")
    print(f"{processor()}, {isa}, one thread")
    seconds: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for program in build(arguments.commit, isa, Path(folder)):
            done = subprocess.run(
                [str(program), str(arguments.turns)], check=True, capture_output=True, text=True
            ).stdout
            for line in done.splitlines():
                *case, old, again, new = line.split(",")
                seconds.setdefault(",".join(case), []).append([float(old), float(again), float(new)])
    print(
        f"{'map':8} {'batch':>5} {'channels':>8} {'size':>4} {'memory order':13} {'ms before':>9} {'A/A':>6} "
        f"{'old/new':>7}"
    )
    ratios: dict[str, list[tuple[float, float]]] = {}
    for case, of_programs in seconds.items():
        name, batch, channels, size, order = case.split(",")
        old, again, new = (statistics.mean(of) for of in zip(*of_programs, strict=True))
        ratios.setdefault(name, []).append((old / again, old / new))
        print(
            f"{name:8} {batch:>5} {channels:>8} {size:>4} {order:13} {old * 1e3:9.3f} {old / again:6.3f} "
            f"{old / new:7.3f}"
        )
    for name, of in ratios.items():
        same, faster = (statistics.median(column) for column in zip(*of, strict=True))
        print(f"{name}: median A/A {same:.3f}, old/new {faster:.3f}")


if __name__ == "__main__":
    main()
