"""``striate explain``: shows the arithmetic of one layer."""

from __future__ import annotations

import argparse

from ..errors import ArgumentError, build
from . import output
from .parser import Commands, Parser

__all__ = ["add", "run"]

LAYERS = (
    "conv, depthwise, separable, convtranspose, local, maxpool or avgpool followed by 1d, 2d or 3d, as conv2d; "
    "spatial2d, bottleneck2d; batchnorm, layernorm, layernorm2d (over the channels), instancenorm, groupnorm"
)


def add(commands: Commands) -> dict[str, Parser]:
    parser: Parser = commands.add_parser(
        "explain",
        help="spell out the arithmetic of one layer, and by which method a convolution is computed",
        description="Puts a layer's numbers into the formulas: output size, parameters, multiply-adds,\n"
        "memory, gradients, receptive field. With --small a smaller layer of the same kind is\n"
        "worked through, forward and backward, cell by cell. For a convolution also: the methods\n"
        "in the order they are tried, the reason against each, and the one that is used. Ratios\n"
        "there are measurements of benchmarks/tune.py.",
        epilog=_examples(),
    )
    option = parser.add_argument
    option("layer", nargs="?", metavar="LAYER", help=LAYERS)
    option("--input", metavar="NxCxHxW", help="shape of x, as 16x64x56x56; without N one image (norms need N)")
    option("--out", type=int, metavar="K", help="output channels")
    option("--kernel", metavar="K", help="taps on each axis, as 3 or 3x5")
    option("--stride", metavar="S", help="as 2 or 2x1 (default 1; the kernel size for pooling)")
    option("--padding", metavar="P", help='as 1 or 1x0, "same" or "valid" (default 0)')
    option("--dilation", metavar="D", help="as 2 or 2x1 (default 1)")
    option("--groups", type=int, metavar="G", help="default 1; required for groupnorm")
    middle = "channels between the two steps (default: out, for a bottleneck out / 4)"
    option("--middle", type=int, metavar="M", help=middle)
    option("--output-padding", metavar="P", help="of convtranspose, as 1 or 1x0 (default 0)")
    option("--no-bias", dest="bias", action="store_const", const=False, help="a convolution without bias")
    option("--ceil", action="store_const", const=True, help="pooling rounds its output size up")
    inside = "avgpool divides by the taps inside x only"
    option("--exclude-pad", dest="count_include_pad", action="store_const", const=False, help=inside)
    option("--channels-last", action="store_true", help="x is in channels_last memory format")
    option("--small", action="store_true", help="a smaller layer of the same kind is worked through as well")
    option("--example", metavar="NAME", help="in place of a layer: one of the worked examples below")
    option("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)
    return {"explain": parser}


def _examples() -> str:
    from ..analysis.explain import EXAMPLES
    from ..render.text import columns

    worked = columns([(f"  {name}", f"{one.layer}. {one.about}") for name, one in EXAMPLES.items()], "<<")
    command = "striate explain conv2d --input 16x64x56x56 --out 64 --kernel 3 --padding 1"
    return "\n".join(["example:", f"  {command}", "", "worked examples, as --example sobel:", *worked])


def run(options: argparse.Namespace) -> int:
    from ..analysis.explain import example, explain

    given = {name: getattr(options, name) for name in ("out", "groups", "middle", "bias", "ceil", "count_include_pad")}
    for name in ("kernel", "stride", "padding", "dilation", "output_padding"):
        text, plain = getattr(options, name), (None, "same", "valid") if name == "padding" else (None,)
        given[name] = text if text in plain else _sizes(text, f"--{name.replace('_', '-')}")
    alone = options.layer is None and options.input is None and all(value is None for value in given.values())
    if options.example is not None and not alone:
        hint = "Leave out one or the other."
        raise ArgumentError(build("explain", "--example alone", "a layer or its options too", hint=hint))
    if options.example is None and options.layer is None:
        hint = "Write as striate explain conv2d --input 3x32x32 --out 10 --kernel 5."
        raise ArgumentError(build("explain", "a layer or --example", "neither", hint=hint))
    if options.example is not None:
        found = example(options.example)
    elif options.input is None:
        hint = "Add --input, as 16x64x56x56."
        raise ArgumentError(build("explain", f"{options.layer} with its --input", "none", hint=hint))
    else:
        shape = _sizes(options.input, "--input")
        found = explain(options.layer, shape, small=options.small, channels_last=options.channels_last, **given)
    print(output.json_text(found.to_dict(), only_ascii=False) if options.json else found)
    return 0


def _sizes(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        hint = "Write as 16x64x56x56." if option == "--input" else "Write as 3 or 3x5."
        expects = f"{option} to be whole numbers with x between"
        raise ArgumentError(build("explain", expects, repr(text), hint=hint)) from None
