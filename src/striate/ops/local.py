r"""Locally connected layers: each position's outputs are a product of matrices, and many positions are one batch of products.

.. math:: Y_o = X_o · W_oᵀ, \quad dX_o = dY_o · W_o, \quad dW_o = dY_oᵀ · X_o

for every output position o: X_o is what the window sees there, (N, taps·C); W_o (C_out, taps·C); Y_o (N, C_out). The weight is
kept in memory as the products read it, position by position, [*output][C_out][*taps][C], whatever its shape says: no pass copies
it, and its gradient is written by the products themselves. ([*output][*taps][C][C_out] makes the first product 1.3 times as fast and
the others up to twice as slow.) What is seen is gathered for some positions at a time (a *chunk*, about
:data:`SCRATCH_BYTES`), and the gradients of what was seen are added up before the next chunk: no unfolded input in memory.

Bits: one product is computed by one thread as long as a batch has at least as many products as there are threads. Chunks are cut
by shape into batches of at least :data:`LEAST`, so results are the same on any number of threads up to that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _torch
from ..errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, build
from ..reference import local as reference
from ..window import Axis, Window, output_size, same_padding
from . import gate
from .arguments import as_key, per_axis
from .autograd import without_autocast
from .choose import Candidate, always, choose
from .layout import empty, is_channels_last, owned

__all__ = ["METHODS", "Plan", "geometry", "laid_out", "local", "shaped"]

Sizes = int | Sequence[int]
SCRATCH_BYTES = 2**22  # for what the positions of a chunk see: about what two cores' second-level caches hold
LEAST = 16  # products in a batch: with fewer than threads, MKL shares one product among threads and adds in another order
SPREAD = 16  # padding may make the input that many times as large


class Plan(NamedTuple):
    """The geometry of a call, resolved."""

    window: Window
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(a.before + a.input + a.after for a in self.window)


# ------------------------------------------------------------------------------------------------------------ arguments


def geometry(input: Sequence[int], kernel_size: Any, stride: Any, padding: Any, dilation: Any, where: str, shape: tuple[int, ...]) -> Plan:
    """Resolves and checks a window over ``input``; ``shape``: what errors tell of x.

    >>> geometry((28, 28), 5, 1, "same", 1, "local", (1, 28, 28)).window.output
    (28, 28)
    """
    dims = len(input)
    size = per_axis(kernel_size, dims, 1, "kernel_size", where, shape)
    steps = per_axis(stride, dims, 1, "stride", where, shape)
    holes = per_axis(dilation, dims, 1, "dilation", where, shape)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            fix = 'Use "same" for ceil(input / stride) outputs.'
            raise ArgumentError(build(where, 'padding "same", "valid" or a number', repr(padding), do=fix, x=shape))
        given: str | tuple[int, ...] = padding
        pads = [(0, 0) if padding == "valid" else same_padding(*a) for a in zip(input, size, steps, holes, strict=True)]
    else:
        given = per_axis(padding, dims, 0, "padding", where, shape)
        pads = [(p, p) for p in given]
    axes = []
    for i, k, s, d, (before, after) in zip(input, size, steps, holes, pads, strict=True):
        count = output_size(i, k, s, d, before, after)
        if count < 1:
            expects = f"a window no larger than the padded input, {i + before + after}"
            do = "Make the kernel or its dilation smaller, or pad more."
            raise ShapeError(build(where, expects, (k - 1) * d + 1, do=do, x=shape))
        axes.append(Axis(i, count, k, s, d, before, after))
    return Plan(Window(tuple(axes)), steps, given, holes)


def _plan(shape: tuple[int, ...], weight: tuple[int, ...], stride: Any, padding: Any, dilation: Any, where: str) -> Plan:
    dims = (len(weight) - 2) // 2
    plan = geometry(shape[-dims:], weight[2 + dims :], stride, padding, dilation, where, shape)
    if plan.window.output != weight[2 : 2 + dims]:
        expects = f"a weight for outputs of size {plan.window.output}"
        do = "Make one for this input, or resize x."
        raise ShapeError(build(where, expects, weight[2 : 2 + dims], do=do, x=shape, weight=weight))
    return plan


_cached_plan = functools.lru_cache(maxsize=4096)(_plan)


def _check_tensors(x: Any, weight: Any, bias: Any, where: str) -> None:
    for name, t in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(t, Tensor) and not (name == "bias" and t is None):
            raise ArgumentTypeError(build(where, f"{name} to be a tensor", type(t).__name__, do="Call torch.as_tensor on it first."))
    if weight.dim() not in (4, 6, 8):
        do = "One, two or three axes make 4, 6 or 8."
        raise ShapeError(build(where, "a weight of shape (C_out, C, *output, *taps)", tuple(weight.shape), do=do))
    shape, of_weight, dims = tuple(x.shape), tuple(weight.shape), weight.dim() // 2 - 1
    letters = ", ".join("DHW"[3 - dims :]) if dims > 1 else "L"
    if x.dim() not in (dims + 1, dims + 2):
        expects = f"x of shape (N, C, {letters}) or (C, {letters})"
        raise ShapeError(build(where, expects, shape, do="Add or drop axes with unsqueeze or flatten."))
    if 0 in of_weight:
        expects = "a weight with at least one value on each axis"
        raise ShapeError(build(where, expects, of_weight, do="Only the batch may be empty.", x=shape))
    if shape[-dims - 1] != of_weight[1]:
        do = f"Set in_channels={shape[-dims - 1]}, or look at what comes before."
        raise ShapeError(build(where, f"{of_weight[1]} channels", shape[-dims - 1], do=do, x=shape, weight=of_weight))
    if bias is not None and tuple(bias.shape) != (of_weight[0], *of_weight[2 : 2 + dims]):
        expects = f"a bias of shape {(of_weight[0], *of_weight[2 : 2 + dims])}"
        raise ShapeError(build(where, expects, tuple(bias.shape), do="Give one number for each output.", x=shape))
    if x.dtype is torch.bool:
        raise DtypeError(build(where, "numbers", "bool", do="Convert x with .float().", x=shape))
    mixed = x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.dtype is not x.dtype and not mixed:
            ours, theirs = (str(d).removeprefix("torch.") for d in (x.dtype, t.dtype))
            raise DtypeError(build(where, f"a {name} of x's type, {ours}", theirs, do="Convert one with .to().", x=shape))
        if t is not None and t.device != x.device:
            raise ArgumentError(build(where, f"{name} on x's device, {x.device}", t.device, do="Move one with .to().", x=shape))


def plan_for(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, where: str) -> Plan:
    """The checks and geometry of one call, cached by shape and arguments."""
    _check_tensors(x, weight, bias, where)
    shapes = tuple(x.shape), tuple(weight.shape)
    if _torch.is_recorded():  # sizes are tensors then
        shapes = tuple(map(int, x.shape)), tuple(map(int, weight.shape))
    if not torch.compiler.is_compiling() and all(type(n) is int for shape in shapes for n in shape):
        key = (as_key(stride), as_key(padding), as_key(dilation))
        if None not in key:
            return _cached_plan(*shapes, *key, where)
    return _plan(*shapes, stride, padding, dilation, where)


# --------------------------------------------------------------------------------------------------------------- chunks


class Chunk(NamedTuple):
    """A box of output positions that follow each other in memory."""

    first: int  # its first position, counted over all
    positions: int
    box: tuple[slice, ...]
    sizes: tuple[int, ...]


def chunks(output: Sequence[int], limit: int) -> Iterator[Chunk]:
    """Boxes of about ``limit`` positions, at least that many where there are, that cover the output in order.

    >>> [(c.first, c.sizes) for c in chunks((5, 4), 8)], [c.sizes for c in chunks((2, 20), 8)]
    ([(0, (2, 4)), (8, (3, 4))], [(1, 10), (1, 10), (1, 10), (1, 10)])
    """
    axis, inner = len(output) - 1, 1
    while axis > 0 and inner * output[axis] <= limit:
        inner *= output[axis]
        axis -= 1
    pieces = max(1, output[axis] // -(-limit // inner))
    cuts = [i * output[axis] // pieces for i in range(pieces + 1)]
    first = 0
    for lead in product(*(range(n) for n in output[:axis])):
        for start, stop in pairwise(cuts):
            positions = (stop - start) * inner
            sizes = (*(1 for _ in lead), stop - start, *output[axis + 1 :])
            box = (*(slice(i, i + 1) for i in lead), slice(start, stop), *(slice(0, n) for n in output[axis + 1 :]))
            yield Chunk(first, positions, box, sizes)
            first += positions


class _Work:
    """One pass over a batch: x (N, *padded, C) with its channels last and its padding in it, cut into chunks of positions."""

    def __init__(self, x: Tensor, plan: Plan, filters: int) -> None:
        self.axes, self.output, self.size = plan.window.axes, plan.window.output, plan.window.size
        self.dims, self.samples, self.channels = len(self.axes), x.shape[0], x.shape[1]
        self.positions, self.depth = prod(self.output), plan.window.taps * self.channels
        self.padded = (self.samples, *plan.padded, self.channels)
        # too few positions: each has some of the filters in each of several products
        self.parts = next((n for n in range(1, filters) if filters % n == 0 and n * self.positions >= LEAST), filters)
        self.filters = filters // self.parts
        self.chunks = list(chunks(self.output, max(LEAST, SCRATCH_BYTES // (self.samples * self.depth * x.element_size()))))
        most = max(c.positions for c in self.chunks) * self.parts * self.samples
        self.seen, self.made = x.new_empty(most * self.depth), x.new_empty(most * self.filters)

    def products(self, flat: Tensor, chunk: Chunk) -> Tensor:
        """The chunk's matrices in a scratch tensor: (products, N, columns)."""
        columns = self.depth if flat is self.seen else self.filters
        return flat[: chunk.positions * self.parts * self.samples * columns].view(-1, self.samples, columns)

    def own(self, chunk: Chunk) -> slice:
        """The chunk's products among all."""
        return slice(chunk.first * self.parts, (chunk.first + chunk.positions) * self.parts)

    def matrices(self, weight: Tensor) -> Tensor:
        """The weight as (products, C_out, taps·C); a view where it is laid out so."""
        return weight.permute(_order(self.dims)).contiguous().view(-1, self.filters, self.depth)

    def spread(self, x: Tensor) -> Tensor:
        """x with its channels last and zeros around it."""
        last = x.movedim(1, -1)
        if self.padded == tuple(last.shape):
            return last.contiguous()
        spread = x.new_zeros(self.padded)
        spread[self.inside].copy_(last)
        return spread

    @property
    def inside(self) -> tuple[slice, ...]:
        return (slice(None), *(slice(a.before, a.before + a.input) for a in self.axes))

    def gather(self, spread: Tensor, chunk: Chunk) -> Tensor:
        """What the chunk's positions see: (products, N, taps·C)."""
        batch, *steps, one = spread.stride()
        at = [a.stride * step for a, step in zip(self.axes, steps, strict=True)]
        tap = [a.dilation * step for a, step in zip(self.axes, steps, strict=True)]
        offset = spread.storage_offset() + sum(s.start * step for s, step in zip(chunk.box, at, strict=True))
        sizes = (*chunk.sizes, self.parts, self.samples, *self.size, self.channels)
        seen = self.products(self.seen, chunk)
        seen.view(sizes).copy_(spread.as_strided(sizes, (*at, 0, batch, *tap, one), offset))
        return seen

    def scatter(self, dseen: Tensor, dspread: Tensor, chunk: Chunk) -> None:
        """Adds the chunk's gradients where its positions looked: the adjoint of :meth:`gather`."""
        parts = dseen.view(chunk.positions, self.parts, self.samples, self.depth).unbind(1)
        whole = parts[0]
        for part in parts[1:]:
            whole += part
        dseen = whole.unflatten(0, chunk.sizes).unflatten(-1, (*self.size, self.channels))
        batch, *steps, one = dspread.stride()
        tap = [a.dilation * step for a, step in zip(self.axes, steps, strict=True)]
        start = dspread.storage_offset() + sum(s.start * a.stride * step for s, a, step in zip(chunk.box, self.axes, steps, strict=True))
        for way in product(*(_apart(a, n) for a, n in zip(self.axes, chunk.sizes, strict=True))):
            part = dseen[(*(w.outputs for w in way), slice(None), *(w.taps for w in way))]
            at = [(w.outputs.step or 1) * a.stride * step for w, a, step in zip(way, self.axes, steps, strict=True)]
            offset = start + sum(w.start * step for w, step in zip(way, steps, strict=True))
            dspread.as_strided(part.shape, (*at, batch, *tap, one), offset).add_(part)

    def put(self, y: Tensor, chunk: Chunk, target: Tensor) -> None:
        """The chunk's results (products, N, C_out) into ``target`` (N, C_out, *output)."""
        self._aligned(target, chunk).copy_(y.view(*chunk.sizes, self.parts, self.samples, self.filters))

    def take(self, dy: Tensor, chunk: Chunk) -> Tensor:
        """The chunk's gradients out of dy (N, C_out, *output): (products, N, C_out)."""
        taken = self.products(self.made, chunk)
        taken.view(*chunk.sizes, self.parts, self.samples, self.filters).copy_(self._aligned(dy, chunk))
        return taken

    def _aligned(self, y: Tensor, chunk: Chunk) -> Tensor:
        part = y[(slice(None), slice(None), *chunk.box)].unflatten(1, (self.parts, self.filters))
        return part.permute(*range(3, 3 + self.dims), 1, 0, 2)


class _Apart(NamedTuple):
    """(output, tap) pairs of one axis that reach no input twice: some outputs with some taps, and the first input they reach."""

    outputs: slice
    taps: slice
    start: int


def _apart(axis: Axis, count: int) -> list[_Apart]:
    """The pairs of ``count`` outputs in as few such sets as there are: windows that do not overlap, or one tap of all windows."""
    steps = -(-axis.extent // axis.stride)
    if steps <= axis.size:
        return [_Apart(slice(r, None, steps), slice(None), r * axis.stride) for r in range(min(steps, count))]
    return [_Apart(slice(None), slice(t, t + 1), t * axis.dilation) for t in range(axis.size)]


def _order(dims: int) -> list[int]:
    """From the weight's shape (C_out, C, *output, *taps) to its order in memory, [*output][C_out][*taps][C]."""
    return [*range(2, 2 + dims), 0, *range(2 + dims, 2 + 2 * dims), 1]


def shaped(ordered: Tensor) -> Tensor:
    """The weight of shape (C_out, C, *output, *taps) that lies in memory as ``ordered``, [*output][C_out][*taps][C].

    >>> shaped(torch.zeros(5, 2, 4, 3)).shape
    torch.Size([2, 3, 5, 4])
    """
    dims = ordered.dim() // 2 - 1
    return ordered.permute(dims, 2 * dims + 1, *range(dims), *range(dims + 1, 2 * dims + 1))


def laid_out(weight: Tensor) -> Tensor:
    """The weight with its values in the products' order; itself if they are.

    >>> laid_out(torch.zeros(2, 3, 5, 4)).stride()
    (12, 1, 24, 3)
    """
    return shaped(weight.permute(_order(weight.dim() // 2 - 1)).contiguous())


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    work, filters = _Work(x, plan, weight.shape[0]), weight.shape[0]
    y = empty(x, [x.shape[0], filters, *work.output], x.dtype, is_channels_last(x))
    matrices, spread = work.matrices(weight), work.spread(x)
    shift = None if bias is None else bias.movedim(0, -1).reshape(-1, 1, work.filters)
    for chunk in work.chunks:
        made = work.products(work.made, chunk)
        torch.bmm(work.gather(spread, chunk), matrices[work.own(chunk)].transpose(1, 2), out=made)
        if shift is not None:
            made += shift[work.own(chunk)]
        work.put(made, chunk, y)
    return y


def _backward(dy: Tensor, x: Tensor, weight: Tensor, plan: Plan, wanted: Sequence[bool]) -> list[Tensor | None]:
    """dx, dweight and dbias, each if wanted, from one pass over the chunks."""
    work = _Work(x, plan, weight.shape[0])
    spread = matrices = dspread = dmatrices = dshift = dx = dweight = dbias = None
    if wanted[0]:
        matrices, dspread = work.matrices(weight), x.new_zeros(work.padded)
        dx = dspread[work.inside].movedim(-1, 1)
    if wanted[1]:
        spread, ordered = work.spread(x), x.new_empty(*work.output, weight.shape[0], *work.size, work.channels)
        dweight, dmatrices = shaped(ordered), work.matrices(shaped(ordered))
    if wanted[2]:
        dbias = x.new_empty(*work.output, weight.shape[0]).movedim(-1, 0)
        dshift = dbias.movedim(0, -1).view(-1, work.filters)
    for chunk in work.chunks:
        taken, own = work.take(dy, chunk), work.own(chunk)
        if spread is not None and dmatrices is not None:
            torch.bmm(taken.transpose(1, 2), work.gather(spread, chunk), out=dmatrices[own])
        if dspread is not None and matrices is not None:
            dseen = work.products(work.seen, chunk)
            torch.bmm(taken, matrices[own], out=dseen)
            work.scatter(dseen, dspread, chunk)
        if dshift is not None:
            torch.sum(taken, 1, out=dshift[own])
    del work, spread  # before there is a dx beside its padded self
    if dx is not None and not is_channels_last(x):
        dx = dx.contiguous()
    elif dx is not None:
        dx = dx.movedim(1, -1).contiguous().movedim(-1, 1)
    return [dx, dweight, dbias]


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.plan = plan
        return _forward(x, weight, bias, plan)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        plan, wanted = ctx.plan, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or gate.closed_to(dy) is not None:  # also where a gradient of this gradient may be asked for
            got = reference.local_backward(dy, x, weight, plan.stride, plan.padding, plan.dilation)
            return *(g if want else None for g, want in zip(got, wanted, strict=True)), None
        return *_backward(dy, x, weight, plan, wanted), None


# -------------------------------------------------------------------------------------------------------------- methods


def _refusal(closed: gate.Closed | None, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile traces the formula"
    if closed is not None:
        return closed.reason
    if x.numel() == 0:
        return "an empty batch has no products"
    if prod(plan.padded) > SPREAD * prod(plan.window.input):
        return f"padding makes x more than {SPREAD} times as large"
    return None


def _run(closed: None, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Local.apply(x, weight, bias, plan)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return _forward(x, weight, bias, plan)


def _reference(closed: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
    y = reference.local(x, weight, bias, plan.stride, plan.padding, plan.dilation)
    if _torch.is_transformed(x):  # how it lies in memory cannot be asked
        return y
    if is_channels_last(x):
        return owned(Tensor.movedim, y.movedim(1, -1).contiguous(), -1, 1)
    y = y.contiguous()
    return owned(Tensor.view_as, y, y)


METHODS = (Candidate("local", _refusal, _run), Candidate("reference", always, _reference))


def local(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    *,
    where: str = "local",
) -> Tensor:
    r"""A convolution whose every output position has weights of its own.

    .. math:: y[n, k, o] = b[k, o] + Σ_c Σ_t x[n, c, o·stride + t·dilation - before] · w[k, c, o, t]

    x: (N, C, *input) or (C, *input) of one, two or three axes; weight: (C_out, C, *output, *taps); bias: (C_out, *output) or None.
    Result: (N, C_out, *output) or (C_out, *output), channels_last where x is. padding: numbers, ``"same"`` (ceil(input / stride)
    outputs, an odd one behind) or ``"valid"``. Fastest where the weight is :func:`laid_out`; any other order is copied first.

    Cost: C_out·C·|output|·|taps| MACs a sample.

    Raises ArgumentError, ArgumentTypeError, ShapeError or DtypeError for arguments that do not fit each other.

    Source: Gregor, LeCun, *Emergence of complex-like cells in a temporal product network with local receptive fields*, 2010.

    >>> own = torch.tensor([[[[1.0, 1.0], [1.0, -1.0], [0.0, 10.0]]]])
    >>> local(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), own)
    tensor([[[ 3., -1., 40.]]])
    """
    closed = gate.closed(x, weight, bias)
    if closed is not None and closed.symbolic and not isinstance(x, Tensor):
        return reference.local(x, weight, bias, stride, padding, dilation)  # a tracer's stand-in: it says what it cannot do
    plan = plan_for(x, weight, bias, stride, padding, dilation, where)
    batch = x if x.dim() == weight.dim() // 2 + 1 else x.unsqueeze(0)
    y = choose(METHODS, closed, batch, weight, bias, plan)(closed, batch, weight, bias, plan)
    return y if batch is x else owned(Tensor.squeeze, y, 0)
