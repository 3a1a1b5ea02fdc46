"""Measures rounding errors: of norms far from zero, `python benchmarks/accuracy.py norm`; of the methods of
convolution, `… conv`.

Norms: x has standard deviation 1 around a mean of 0, 10, 1000 and 10000, in float32. Each row is the largest error of y
and of dx against the same formula in float64, in units of the largest value, for striate and torch in both memory
formats. The last column is the best that float32 can do: every quantity is exact in float64, and rounded once to
float32 where an operator must store or combine it (the mean as a pair of floats, x - μ, 1/σ, x̂, the products).

Convolutions: x is the output of a ReLU, weights are initialized as by He et al., dy is normal; 28×28 positions, as many
filters as channels. Each row is the root mean square of the error over that of the exact result in float64, in units of
1e-7; "largest" is the largest error over the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import striate.nn.functional as S
from striate.ops.conv import conv
from striate.ops.dispatch import prefer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from samples import channels_last

SHAPE, GROUPS, MEANS = (8, 32, 28, 28), 8, (0.0, 10.0, 1e3, 1e4)
DIMS = {"batch": (0, 2, 3), "instance": (2, 3), "group": (2, 3, 4), "layer": (1, 2, 3)}


def call(kind: str, functions: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if kind == "batch":
        return functions.batch_norm(x, None, None, weight, bias, True)
    if kind == "instance":
        return functions.instance_norm(x, weight=weight, bias=bias)
    if kind == "group":
        return functions.group_norm(x, GROUPS, weight, bias)
    return functions.layer_norm(x, SHAPE[1:], weight, bias)


def passes(run: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = run(x)
    return y.detach().double(), torch.autograd.grad(y, x, dy)[0].double()


def best(kind: str, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Computes forward and backward by float32 operations on exactly rounded quantities."""
    shape = (SHAPE[0], GROUPS, SHAPE[1] // GROUPS, *SHAPE[2:]) if kind == "group" else SHAPE
    spread = (1, *weight.shape) if kind == "layer" else (1, -1, 1, 1)
    exact, dims = x.double().reshape(shape), DIMS[kind]
    var, mean = torch.var_mean(exact, dims, correction=0, keepdim=True)
    rstd = (var + 1e-5).rsqrt()
    x_hat = (exact - mean).float() * rstd.float()
    y = x_hat.reshape(SHAPE) * weight.view(spread) + bias.view(spread)
    g = (dy.double() * weight.double().view(spread)).reshape(shape)
    exact_hat = (exact - mean) * rstd
    first, second = g.mean(dims, keepdim=True), (g * exact_hat).mean(dims, keepdim=True)
    dx = rstd.float() * ((dy * weight.view(spread)).reshape(shape) - first.float() - x_hat * second.float())
    return y.double(), dx.reshape(SHAPE).double()


def rows() -> list[tuple[str, float, str, list[float]]]:
    result = []
    for kind in DIMS:
        for mean in MEANS:
            torch.manual_seed(0)
            x, dy = mean + torch.randn(SHAPE), torch.randn(SHAPE)
            size = SHAPE[1:] if kind == "layer" else SHAPE[1:2]
            weight, bias = 0.5 + torch.rand(size), torch.randn(size)
            exact = passes(
                lambda t, k=kind, w=weight, b=bias: call(k, F, t, w.double(), b.double()), x.double(), dy.double()
            )
            found = []
            with prefer("native"):
                for functions in (S, F):
                    for layout in (torch.Tensor.contiguous, channels_last):
                        run = lambda t, f=functions, k=kind, w=weight, b=bias: call(k, f, t, w, b)  # noqa: E731
                        found.append(passes(run, layout(x), layout(dy)))
            found.append(best(kind, x, dy, weight, bias))
            for k, which in enumerate(("y", "dx")):
                errors = [float((f[k] - exact[k]).abs().max() / exact[k].abs().max()) for f in found]
                result.append((kind, mean, which, errors))
    return result


def conv_rows() -> Iterator[tuple[str, str, int, list[float]]]:
    """Method, taps, channels, and for each pass the error's root mean square and largest value, over the exact result's
    root mean square.
    """
    for method, size in (("torch", 3), ("winograd_2x2", 3), ("winograd_4x4", 3), ("torch", 5), ("winograd_2x2", 5)):
        for channels in (16, 64, 256, 512):
            torch.manual_seed(0)
            x, dy = torch.randn(4, channels, 28, 28).relu(), torch.randn(4, channels, 28, 28)
            w = torch.randn(channels, channels, size, size) * (2 / (channels * size * size)) ** 0.5
            found = []
            for name, dtype in (("torch", torch.float64), (method, torch.float32)):
                a, b = x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()
                y = conv(a, b, padding=size // 2, dims=2, method=name)
                found.append((y.detach(), *torch.autograd.grad(y, (a, b), dy.to(dtype))))
            numbers = []
            for truth, got in zip(*found, strict=True):
                scale, wrong = truth.square().mean().sqrt(), got - truth
                numbers += [float(wrong.square().mean().sqrt() / scale), float(wrong.abs().max() / scale)]
            yield method, f"{size}×{size}", channels, numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", choices=["norm", "conv"], default="norm", help="default %(default)s")
    if parser.parse_args().family == "conv":
        print("| method | taps | channels | y | largest | dx | largest | dw | largest |\n" + "|---" * 9 + "|")
        for method, taps, channels, numbers in conv_rows():
            print(
                f"| {method} | {taps} | {channels} | " + " | ".join(f"{n * 1e7:.1f}" for n in numbers) + " |",
                flush=True,
            )
        return 0
    print("| norm | mean/σ | of | striate NCHW | striate NHWC | torch NCHW | torch NHWC | best float32 |")
    print("|---" * 8 + "|")
    for kind, mean, which, errors in rows():
        print(f"| {kind} | {mean:g} | {which} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
