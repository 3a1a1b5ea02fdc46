"""Times the versions of a product of matrices that docs/kernels/gemm.md goes through: ``python benchmarks/ladder.py``.

They are one program (ladder.cpp) for this machine's best instruction set: from the three loops of the definition to
striate's core, on one thread, on square matrices of float32, in an order shuffled each turn. Medians are reported.
Every version's result is compared with the exact one.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from kernels import FLAGS, ROOT, VECTORS

from striate import native
from striate.measure import processor

ORDER = (
    *("three loops", "along rows", "in blocks", "tiles in registers", "packed slivers", "the core"),
    "micro-kernel alone",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument("--size", type=int, default=1024, help="a multiple of 256 (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=7, help="of each version (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.size < 256 or arguments.size % 256 or arguments.turns < 1:
        parser.error("the size is a multiple of 256, and there is at least one turn")
    isa, m = native.isa(), native.machine()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ladder"
        files = (ROOT / "benchmarks" / "ladder.cpp", ROOT / "csrc" / "core" / "workspace.cpp")
        source = ["-I", str(ROOT / "csrc"), *map(str, files), "-o", str(program)]
        subprocess.run(["g++", *FLAGS, *VECTORS.get(isa, []), f"-DSTRIATE_ISA={isa}", *source], check=True)
        given = (arguments.size, arguments.turns, m.first_level, m.second_level, m.last_level)
        done = subprocess.run([str(program), *map(str, given)], check=True, capture_output=True, text=True).stdout
    seconds = {name: float(value) for name, value in (line.split(",") for line in done.splitlines())}
    print(f"{processor()}, {isa}, one thread, {arguments.size}³, float32\n")
    print(f"| {'version':20} | {'ms':>9} | {'GFLOP/s':>8} | of the micro-kernel |")
    print(f"|{'-' * 22}|{'-' * 10}:|{'-' * 9}:|{'-' * 20}:|")
    for name in ORDER:
        share = seconds[ORDER[-1]] / seconds[name]
        rate = 2 * arguments.size**3 / seconds[name] / 1e9
        print(f"| {name:20} | {seconds[name] * 1e3:9.1f} | {rate:8.1f} | {share:19.1%} |")


if __name__ == "__main__":
    main()
