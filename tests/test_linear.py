"""Linear layers: the kernel against torch's function, on any threads; the layer, its fusing, and every error's text."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from math import inf, prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

import striate
import striate.nn as nn
import striate.nn.functional as SF
from striate._torch import Observer
from striate.deploy.frozen import describe_operator
from striate.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError
from striate.graph.cost import backward_macs, macs, macs_inside
from striate.graph.links import Along, Anywhere, links_of
from striate.graph.recording import record
from striate.nn import swap
from striate.ops import linear as ops
from striate.ops.activation import Activation
from striate.ops.dispatch import prefer
from striate.ops.fused import FusedLinear

ODD = (1, 7, 17, 1000)
# rows, inputs, outputs: all of few products, and each large size with each other
SIZES = [s for s in itertools.product(ODD, ODD, ODD) if prod(s) <= 300_000] + [(1000, 17, 1000), (300, 1000, 65)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def forget_choices() -> None:
    ops._cached_dispatch.cache_clear(), ops._plain_dispatch.cache_clear()


@pytest.fixture(autouse=True)
def same_choices_everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel is chosen for what these tests compute, whatever processor they run on."""
    monkeypatch.setattr(ops, "_MKL_IS_SLOW", True)
    monkeypatch.setattr(ops, "LEAST_MACS", 2**12)
    forget_choices()
    yield
    forget_choices()


@pytest.fixture
def native() -> Iterator[None]:
    """Lets the kernel compute what is small too."""
    with prefer("native"):
        yield


def sample(
    shape: tuple[int, ...], outputs: int, dtype: torch.dtype = torch.float32, whole: bool = True
) -> list[Tensor]:
    """x, weight, bias and dy."""
    shapes = shape, (outputs, shape[-1]), (outputs,), (*shape[:-1], outputs)
    return [torch.randint(-4, 5, s).to(dtype) if whole else torch.randn(s, dtype=dtype) for s in shapes]


def results(function: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    """The output, and the gradients of x, weight and bias; the last one given is dy."""
    *tensors, dy = given
    learned = [t.detach().requires_grad_() for t in tensors]
    y = function(*learned)
    return [y.detach(), *torch.autograd.grad(y, learned, dy)]


def equal(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == e.shape and a.dtype is e.dtype and torch.equal(a, e) for a, e in zip(got, expected, strict=True)
    )


class Calls(Observer):
    """Records the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).removesuffix(".default"))
        return func(*args, **(kwargs or {}))

    @property
    def own(self) -> list[str]:
        return [name.removeprefix("striate.") for name in self.names if name.startswith("striate.")]


# --------------------------------------------------------------------------------------------------------------- values


@DTYPES
def test_whole_numbers_give_exactly_torchs_output_and_gradients(dtype: torch.dtype, isa: str, native: None) -> None:
    for rows, inputs, outputs in SIZES:
        given = sample((rows, inputs), outputs, dtype)
        expected = results(F.linear, *given)
        with Calls() as run:
            got = results(ops.linear, *given)
        assert run.own[0] == "linear" and {"linear_backward_data", "linear_backward_weights"} <= set(run.own)
        assert equal(got, expected), (rows, inputs, outputs)
        if min(rows, inputs, outputs) > 1:
            assert all(e.count_nonzero() > e.numel() // 4 for e in expected)


LEADING: dict[str, tuple[int, ...]] = {
    "one vector": (9,),
    "a batch of sequences": (3, 5, 9),
    "four leading axes": (2, 1, 3, 2, 9),
    "no rows": (0, 9),
    "an empty axis among others": (2, 0, 3, 9),
    "no inputs": (4, 0),
}


@pytest.mark.parametrize("shape", LEADING.values(), ids=LEADING)
@pytest.mark.parametrize("outputs", [6, 0])
def test_any_leading_axes_and_empty_ones_give_torchs(shape: tuple[int, ...], outputs: int, native: None) -> None:
    given = sample(shape, outputs)
    expected, got = (results(f, *given) for f in (F.linear, ops.linear))
    assert equal(got, expected) and all(a.is_contiguous() for a in got)
    x, w, _, dy = given
    assert equal(results(ops.linear, x, w, dy), [F.linear(x, w), *expected[1:3]])


def offset(x: Tensor) -> Tensor:
    """x, in storage that begins one value before."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "every second": lambda x: torch.stack([x, -x], -1)[..., 0],
    "offset": offset,
    "permuted": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "reversed storage of rows": lambda x: x.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tensors_in_other_memory_orders_give_the_same(change: Callable[[Tensor], Tensor], native: None) -> None:
    for shape in ((7, 18), (3, 5, 18)):
        given = sample(shape, 11)
        expected = results(F.linear, *given)
        for k in range(4):
            assert equal(results(ops.linear, *(change(t) if j == k else t for j, t in enumerate(given))), expected)
        assert equal(results(ops.linear, *map(change, given)), expected)


def test_outputs_have_torchs_strides_whatever_the_memory_order_of_x(native: None) -> None:
    w, b = torch.randn(5, 9), torch.randn(5)
    for order in itertools.permutations(range(4)):
        x = torch.randn(2, 3, 4, 9).permute(order).contiguous().permute([order.index(axis) for axis in range(4)])
        for bias in (b, None):
            assert ops.linear(x, w, bias).stride() == F.linear(x, w, bias).stride()


def test_expanded_tensors_give_the_same(native: None) -> None:
    x, w, b, dy = sample((5, 9), 4)
    for given in (
        (x[:1].expand(5, 9), w, b, dy),
        (x, w[:, :1].expand(4, 9), b, dy),
        (x, w, b[:1].expand(4), dy),
        (x, w, b, dy[:1, :1].expand(5, 4)),
        (x, w[:1].expand(4, 9), b, dy),
    ):
        assert equal(results(ops.linear, *given), results(F.linear, *given))


@pytest.mark.parametrize("size", [(64, 512, 256), (1000, 65, 33), (3, 4099, 17), (256, 17, 1000)], ids=str)
def test_random_numbers_are_as_near_to_float64_as_torch(size: tuple[int, int, int], isa: str, native: None) -> None:
    rows, inputs, outputs = size
    given = sample((rows, inputs), outputs, whole=False)
    exact = results(F.linear, *(t.double() for t in given))
    for a, p, e in zip(results(ops.linear, *given), results(F.linear, *given), exact, strict=True):
        scale = float(e.square().mean().sqrt())
        assert float((a - e).abs().max()) <= 2 * max(float((p - e).abs().max()), 1e-6 * scale)


@pytest.mark.parametrize("value", [float("nan"), inf, -inf], ids=str)
@pytest.mark.parametrize("place", ["x", "weight", "bias", "dy"])
def test_special_values_reach_what_they_reach_in_torch(value: float, place: str, isa: str, native: None) -> None:
    given = sample((9, 21), 13)
    t = given[("x", "weight", "bias", "dy").index(place)]
    t[(t.shape[0] - 2, 3)[: t.dim()]] = value
    given[0][4], given[1][5] = 0, 0  # 0·∞ is NaN
    expected, got = (results(f, *given) for f in (F.linear, ops.linear))
    assert any(not e.isfinite().all() for e in expected) and any(e.isfinite().any() for e in expected)
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


BOUNDS: dict[str, tuple[float, float, Callable[[Tensor], Tensor]]] = {
    "relu": (0.0, inf, F.relu),
    "relu6": (0.0, 6.0, F.relu6),
    "hardtanh": (-1.5, 2.5, lambda y: F.hardtanh(y, -1.5, 2.5)),
    "from above": (-inf, 1.0, lambda y: y.clamp(max=1.0)),
}


@pytest.mark.parametrize(("low", "high", "activation"), BOUNDS.values(), ids=BOUNDS)
def test_a_clamp_gives_what_the_activation_gives(
    low: float, high: float, activation: Callable[[Tensor], Tensor], isa: str, native: None
) -> None:
    given = sample((17, 33), 21)
    given[0][3, 2] = float("nan")
    apart = results(lambda x, w, b: activation(ops.linear(x, w, b)), *given)
    for method in ("native", "torch"):
        with prefer(method):
            got = results(lambda x, w, b: ops.linear(x, w, b, low=low, high=high), *given)
        compared = 1 if low == -inf else 4  # torch.clamp passes the gradient on where a value is the bound
        for a, e in zip(got[:compared], apart[:compared], strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)
    assert apart[0].isnan().sum() == 21


def test_gradcheck_and_gradgradcheck_accept_it(native: None) -> None:
    x, w, b, _ = (t.requires_grad_() for t in sample((2, 3, 5), 4, torch.float64, whole=False))
    others = ({"activation": Activation("leaky_relu", (0.3,))}, {"activation": Activation("gelu")})
    for given in ({}, {"low": 0.0}, {"low": -1.0, "high": 1.0}, *others):
        call = lambda *t, given=given: ops.linear(*t, **given)  # noqa: E731
        assert torch.autograd.gradcheck(call, (x, w, b)) and torch.autograd.gradgradcheck(call, (x, w, b))
    assert torch.autograd.gradgradcheck(lambda x, w: ops.linear(x, w).square(), (x[0, 0], w))


# ----------------------------------------------------------------------------------------------------- threads and work


@DTYPES
def test_results_are_bitwise_the_same_on_1_2_3_and_8_threads(dtype: torch.dtype, isa: str, native: None) -> None:
    for shape, outputs in (((64, 300), 130), ((2, 1000), 77), ((517, 33), 40)):
        given = sample(shape, outputs, dtype, whole=False)
        found = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            found.append(results(lambda x, w, b: ops.linear(x, w, b, low=0.0), *given))
        assert all(equal(one, found[0]) for one in found[1:])


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
def test_what_needs_no_gradient_costs_no_product(wanted: tuple[bool, bool, bool], native: None) -> None:
    *tensors, dy = sample((80, 65), 70)
    expected = results(F.linear, *tensors, dy)[1:]
    given = [t.requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
    with Calls() as run:
        y = ops.linear(*given)
        learned = [t for t in given if t.requires_grad]
        got = torch.autograd.grad(y, learned, dy) if learned else ()
    assert equal(list(got), [e for e, want in zip(expected, wanted, strict=True) if want])
    names = ("linear_backward_data", "linear_backward_weights", "conv_bias")
    assert sorted(run.own) == sorted(["linear", *(n for n, want in zip(names, wanted, strict=True) if want)])


def test_only_what_gradients_need_is_saved(native: None) -> None:
    x, w, b, _ = sample((80, 65), 70)
    for learn_x, learn_w, count in ((True, True, 2), (True, False, 1), (False, True, 1), (False, False, 0)):
        saved: list[Tensor] = []

        def keep(t: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            ops.linear(x.clone().requires_grad_(learn_x), w.clone().requires_grad_(learn_w), b.requires_grad_())
        assert len(saved) == count


def test_outputs_may_be_changed_in_place(native: None) -> None:
    x, w, b, dy = sample((8, 9), 4)
    expected = results(lambda *t: F.linear(*t).mul_(2), x, w, b, dy)
    assert equal(results(lambda *t: ops.linear(*t).mul_(2), x, w, b, dy), expected)
    y = ops.linear(x, w.requires_grad_(), low=0.0)
    y += 1  # what the clamp's gradient goes by
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# --------------------------------------------------------------------------------------------------------------- choice


def test_small_products_are_torchs_and_others_the_kernels() -> None:
    def choice(rows: int, inputs: int, outputs: int, **options: Any) -> list[tuple[str, str | None]]:
        return ops.explain_methods(torch.ones(rows, inputs), torch.ones(outputs, inputs), **options)

    small = "torch is faster below 4,096 multiply-adds"
    assert choice(2, 5, 7) == [("native", small), ("torch", None)]
    assert all(choice(64, 128, 65, pass_=pass_) == [("native", None)] for pass_ in ops.PASSES)
    with prefer("native"):
        assert choice(2, 5, 7) == [("native", None)]
    with prefer("torch"):
        assert choice(64, 128, 65) == [("torch", None)]


@pytest.mark.parametrize("slow", [True, False])
def test_many_rows_are_the_kernels_where_mkl_is_slow_and_few_rows_everywhere(
    slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_MKL_IS_SLOW", slow)
    for pass_ in ops.PASSES:
        assert ops.not_preferred(16, 512, 512, pass_) is None
        many = None if slow else "torch is as fast or faster here for more than 16 rows"
        assert ops.not_preferred(17, 512, 512, pass_) == many


def test_the_kernel_refuses_with_a_sentence() -> None:
    x, w, b, _ = sample((3, 4), 5)

    def refusal(x: Tensor, w: Tensor, b: Tensor | None = None) -> str | None:
        with prefer("native"):
            return ops.explain_methods(x, w, b)[0][1]

    assert refusal(x, w, b) is None
    assert refusal(x.bfloat16(), w.bfloat16()) == "kernels are for float32 and float64, got bfloat16"
    assert refusal(x.long(), w.long()) == "kernels are for float32 and float64, got int64"
    assert refusal(x.to("meta"), w.to("meta")) == "kernels are for the CPU, got meta"
    assert refusal(x, w[0]) == "the weight has no axis of outputs"
    assert refusal(x, w, torch.ones(3, 5)) == "the bias is not one number for each output"
    with torch.autocast("cpu"):
        assert refusal(x, w, b) == "autocast chooses the type"


def test_what_the_kernel_refuses_torch_computes(native: None) -> None:
    x, w, b, _ = sample((3, 4), 5)
    for given in (
        (x, w[0]),
        (x, w, b[:1]),
        (x, w, torch.ones(3, 5)),
        *((x.to(t), w.to(t), b.to(t)) for t in (torch.bfloat16, torch.float16, torch.int64, torch.complex64)),
    ):
        got, expected = ops.linear(*given), F.linear(*given)
        assert got.dtype is expected.dtype and torch.equal(got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.linear(x, w, b), F.linear(x, w, b)) and ops.linear(x, w, b).dtype is torch.bfloat16
        assert ops.linear(x.bfloat16(), w, b).dtype is torch.bfloat16


# ------------------------------------------------------------------------------------------------ other ways of calling


def test_vmap_jvp_and_batched_gradients_are_torchs(native: None) -> None:
    x, w, b, _ = (t.requires_grad_() for t in sample((3, 2, 9), 4))
    assert torch.equal(torch.vmap(lambda one: ops.linear(one, w, b))(x), F.linear(x, w, b))
    _, tangent = torch.func.jvp(lambda t: ops.linear(t, w, b), (x,), (torch.ones_like(x),))
    assert torch.equal(tangent, F.linear(torch.ones_like(x), w))
    y, expected = ops.linear(x, w, b, low=0.0), F.relu(F.linear(x, w, b))
    seeds = torch.randint(-3, 4, (3, *y.shape)).float()
    for create in (False, True):
        got, theirs = (
            torch.autograd.grad(t, (x, w, b), seeds, is_grads_batched=True, create_graph=create, retain_graph=True)
            for t in (y, expected)
        )
        assert equal(list(got), list(theirs))


def test_compile_keeps_the_kernel_forward_and_backward() -> None:
    layer, x = nn.Linear(65, 70), torch.randn(3, 20, 65, requires_grad=True)
    found: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.extend(str(node.target) for node in graph.graph.nodes if "striate" in str(node.target))
        return make_boxed_func(graph.forward)

    compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=note, bw_compiler=note), fullgraph=True)
    got, expected = (torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()]) for f in (compiled, layer))
    names = ("linear", "linear_backward_data", "linear_backward_weights")
    assert sorted(found) == [f"striate.{name}.default" for name in names]
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_compile_of_dynamic_sizes_computes_the_same() -> None:
    compiled = torch.compile(SF.linear, backend="aot_eager", dynamic=True, fullgraph=True)
    for rows in (80, 90, 3):
        x, w, b, dy = sample((rows, 65), 70)
        assert equal(results(compiled, x, w, b, dy), results(F.linear, x, w, b, dy))


def test_export_script_and_trace_have_torchs_operator() -> None:
    layer, x = nn.Linear(65, 70), torch.randn(80, 65)
    exported = torch.export.export(layer, (x,))
    assert "aten.linear.default" in str(exported.graph) and "striate" not in str(exported.graph)
    scripted = torch.jit.script(layer)
    assert "linear" in str(scripted.graph) and torch.equal(scripted(x), F.linear(x, layer.weight, layer.bias))
    traced = torch.jit.trace(layer, x)
    assert "aten::linear" in str(traced.graph) and torch.equal(traced(x), scripted(x))
    graph = torch.fx.symbolic_trace(nn.Sequential(layer)).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


def test_flops_are_counted_as_torchs() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, w, b, dy = sample((4, 20, 65), 70)
    counts = []
    for direct in (True, False):
        with FlopCounterMode(display=False) as counter:
            if direct:
                own = torch.ops.striate
                own.linear(x, w, b, 0, -inf, inf), own.linear_backward_data(dy, w), own.linear_backward_weights(dy, x)
            else:
                results(F.linear, x, w, b, dy)
        counts.append(counter.get_total_flops())
    assert counts == [6 * 80 * 65 * 70] * 2


class Direct(torch.nn.Module):
    """Calls the operator, as a program that torch.compile made does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(70, 65))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.striate.linear(x, self.weight, None, 0, -inf, inf)


def test_the_operator_is_known_to_recordings_and_programs() -> None:
    model, x = Direct(), torch.randn(4, 20, 65)
    recording = record(model, x)
    (operation,) = recording.operations
    assert macs(recording, operation) == macs_inside(recording, operation) == 80 * 65 * 70
    assert backward_macs(recording, operation) == 80 * 65 * 70  # x needs no gradient
    (links,) = links_of(recording, operation)
    assert links[0].axes == (Along(0), Along(1), Anywhere(range(65)))
    assert links[1].axes == (Anywhere(range(70)), Anywhere(range(65)))
    frozen = striate.freeze(model.eval(), x)
    torch.testing.assert_close(frozen(x), model(x))


def test_inspect_lint_fold_and_freeze_see_what_they_see_of_torchs() -> None:
    told = []
    for namespace in (nn, torch.nn):
        torch.manual_seed(5)
        layers = [namespace.Linear(70, 60), namespace.Linear(60, 50), namespace.BatchNorm1d(50), torch.nn.ReLU()]
        model = namespace.Sequential(*layers, namespace.Linear(50, 9), torch.nn.ReLU6())
        x = torch.randn(80, 70)
        report = striate.inspect(model, x)
        folded, by_norm = striate.fold(model.eval(), x)
        frozen = striate.freeze(model, x)
        for prepared in (folded, frozen):
            torch.testing.assert_close(prepared(x), model(x), rtol=1e-4, atol=1e-5)
        program = [describe_operator(node) for node in frozen._executable.program.nodes]
        told.append([str(report), program, frozen.explain(), by_norm.folded])
    assert told[0] == told[1]
    report, program, explained, count = told[0]
    assert "no-nonlinearity: 1" in report and "612,000 MACs" in report
    assert program == ["linear", "linear + relu", "linear + relu6"] and count == 1
    assert all(by_method == [("native", None)] for by_method in explained.values())


# ------------------------------------------------------------------------------------------------------------ the layer


def twins(*arguments: Any, **options: Any) -> tuple[nn.Linear, torch.nn.Linear]:
    torch_layer = torch.nn.Linear(*arguments, **options)
    layer = nn.Linear(*arguments, **options)
    layer.load_state_dict(torch_layer.state_dict())
    return layer, torch_layer


def test_the_layer_is_torchs_in_all_but_its_kernel() -> None:
    layer, twin = twins(65, 70)
    x = torch.randn(3, 20, 65)
    assert isinstance(layer, torch.nn.Linear) and repr(layer) == repr(twin)
    assert list(layer.state_dict()) == list(twin.state_dict())
    torch.testing.assert_close(layer(x), twin(x))
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).double().float()):
        assert type(again) is nn.Linear and torch.equal(again(x), layer(x))
    with Calls() as run:
        layer(x)
    assert run.own == ["linear"]
    assert nn.Linear(3, 4, bias=False).bias is None
    torch.manual_seed(7)
    mine = nn.Linear(3, 4).state_dict()
    torch.manual_seed(7)
    assert all(torch.equal(mine[k], v) for k, v in torch.nn.Linear(3, 4).state_dict().items())


def test_a_lazy_layer_becomes_a_linear_one() -> None:
    layer = nn.LazyLinear(4, bias=False)
    assert isinstance(layer, torch.nn.LazyLinear) and isinstance(layer, nn.Linear)
    y = layer(torch.randn(2, 5))
    assert type(layer) is nn.Linear and y.shape == (2, 4) and layer.weight.shape == (4, 5)
    model = striate.accelerate(torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.Linear(3, 2)))
    assert type(model[0]) is nn.LazyLinear and model(torch.ones(1, 6)).shape == (1, 2) and type(model[0]) is nn.Linear
    assert type(striate.restore(model)[0]) is torch.nn.Linear


def test_parametrized_and_tied_weights_learn() -> None:
    def train(namespace: Any) -> list[Tensor]:
        torch.manual_seed(3)
        tied = namespace.Linear(70, 70, bias=False)
        tied.weight = (first := namespace.Linear(70, 70)).weight
        normed = torch.nn.utils.parametrizations.weight_norm(namespace.Linear(70, 70))
        model = torch.nn.Sequential(first, torch.nn.Tanh(), tied, normed)
        model(torch.ones(80, 70)).square().mean().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    mine, theirs = train(nn), train(torch.nn)
    assert len(mine) == len(theirs) == 5
    for a, e in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, e)


def test_attention_and_transformers_are_accelerated_without_a_word() -> None:
    encoder = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    x = torch.randn(2, 10, 64)
    twin = copy.deepcopy(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        striate.accelerate(encoder)
    assert type(encoder.linear1) is nn.Linear
    output = encoder.self_attn.out_proj  # attention reads its weight and does not call it
    assert type(output).__name__ == "NonDynamicallyQuantizableLinear"
    assert all("out_proj" not in name for name in swap.plan(twin)[0]) and swap.plan(twin)[1] == []
    torch.testing.assert_close(encoder(x), twin(x))
    torch.testing.assert_close(encoder.eval()(x), twin.eval()(x))  # torch's fast path, where it is taken


# -------------------------------------------------------------------------------------------------------------- fusing


def chain(namespace: Any, *activations: torch.nn.Module) -> Any:
    torch.manual_seed(11)
    layers: list[torch.nn.Module] = []
    for activation in activations:
        layers += [namespace.Linear(70, 70), activation]
    return (nn.Sequential if namespace is nn else torch.nn.Sequential)(*layers, namespace.Linear(70, 9))


def learned(model: Any, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


def observed(model: torch.nn.Sequential) -> torch.nn.Sequential:
    """A copy whose layers are computed apart, since each has a hook."""
    model = copy.deepcopy(model)
    for module in model:
        module.register_forward_hook(lambda m, a, y: None)
    return model


@pytest.mark.parametrize("method", ["native", "torch"])
def test_an_activation_behind_is_computed_in_the_pass_with_the_same_bits(method: str) -> None:
    activations = [torch.nn.ReLU(), torch.nn.ReLU6(), torch.nn.ReLU(inplace=True)]
    model, x = chain(nn, *activations), 3 * torch.randn(80, 70)
    with prefer(method):
        with Calls() as run:
            got = learned(model, x)
        with Calls() as unfused:
            expected = learned(observed(model), x)
    assert equal(got, expected)
    fused = {"aten.relu", "aten.relu_", "aten.hardtanh"}
    assert fused <= set(unfused.names)
    assert (not fused & set(run.names)) == (method == "native")


OTHERS: dict[str, tuple[torch.nn.Module, str]] = {
    "leaky ReLU": (torch.nn.LeakyReLU(0.2), "aten.leaky_relu"),
    "leaky ReLU that falls": (torch.nn.LeakyReLU(-0.2), "aten.leaky_relu"),
    "SiLU": (torch.nn.SiLU(), "aten.silu"),
    "SiLU in place": (torch.nn.SiLU(inplace=True), "aten.silu_"),
    "GELU": (torch.nn.GELU(), "aten.gelu"),
    "GELU by tanh": (torch.nn.GELU(approximate="tanh"), "aten.gelu"),
    "hardswish": (torch.nn.Hardswish(), "aten.hardswish"),
}


@pytest.mark.parametrize(("activation", "operator"), OTHERS.values(), ids=OTHERS)
def test_other_activations_are_in_the_pass_where_no_gradient_needs_the_sum(
    activation: torch.nn.Module, operator: str
) -> None:
    model, x = chain(nn, activation, activation), 3 * torch.randn(80, 70)
    with prefer("native"):
        with torch.no_grad(), Calls() as run:
            y = model(x)
        assert run.own == ["linear"] * 3 and operator not in run.names
        got = learned(model, x)
        with Calls() as unfused:
            expected = learned(observed(model), x)
    assert operator in unfused.names
    for a, e in zip((y, *got), (expected[0], *expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
    assert y.unique().numel() > y.numel() // 2


def test_an_activation_that_somebody_could_see_stays() -> None:
    x = 3 * torch.randn(80, 70)

    class Kept(torch.nn.GELU):
        pass

    def count(model: Any) -> int:
        with torch.no_grad(), prefer("native"), Calls() as run:
            model(x)
        return run.names.count("aten.gelu")

    assert [count(chain(nn, layer)) for layer in (torch.nn.GELU(), Kept())] == [0, 1]
    model = chain(nn, torch.nn.GELU())
    handle = model[1].register_forward_hook(lambda m, a, y: None)
    assert count(model) == 1
    handle.remove()
    model[1].forward = model[1].forward
    assert count(model) == 1


def test_nothing_is_fused_that_somebody_could_see() -> None:
    x = 3 * torch.randn(80, 70)
    seen: list[Tensor] = []

    class Kept(torch.nn.ReLU):
        pass

    def count(model: Any) -> int:
        with Calls() as run:
            model(x)
        return run.names.count("aten.relu")

    assert count(chain(nn, torch.nn.ReLU())) == 0
    assert count(chain(nn, Kept())) == 1
    for place, expected in ((0, 1), (1, 1), (2, 0)):
        model = chain(nn, torch.nn.ReLU())
        handle = model[place].register_forward_hook(lambda m, a, y: seen.append(y))
        assert count(model) == expected and len(seen) == 1
        handle.remove(), seen.clear()
        assert count(model) == 0
    model = chain(nn, torch.nn.ReLU())
    model[0].forward = model[0].forward
    assert count(model) == 1
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, a, y: None)
    assert count(chain(nn, torch.nn.ReLU())) == 1
    handle.remove()
    assert count(chain(torch.nn, torch.nn.ReLU())) == 1


def test_accelerated_containers_fuse_too_and_restored_ones_do_not() -> None:
    model = chain(torch.nn, torch.nn.ReLU(), torch.nn.ReLU6())
    x = 3 * torch.randn(80, 70)
    expected = model(x)
    striate.accelerate(model)
    with Calls() as run:
        got = model(x)
    assert run.own == ["linear"] * 3 and not {"aten.relu", "aten.hardtanh"} & set(run.names)
    torch.testing.assert_close(got, expected)
    assert torch.equal(striate.restore(model)(x), expected)


def test_a_frozen_linear_layer_can_run_by_the_kernel() -> None:
    weight, bias = torch.randint(-4, 5, (70, 65)).float(), torch.randint(-4, 5, (70,)).float()
    layer, x = FusedLinear(weight, bias, low=0.0, high=9.0), torch.randint(-4, 5, (80, 65)).float()
    small = FusedLinear(weight[:2], bias[:2]).explain_methods(x[:1])
    assert small[0] == ("native", "torch is faster below 4,096 multiply-adds")
    for method in ("native", "torch"):
        with prefer(method):
            assert layer.method(x) == method and torch.equal(layer(x), F.linear(x, weight, bias).clamp(0, 9))
    with prefer("native"):
        strided = FusedLinear(weight.T.contiguous().T, bias)
        assert torch.equal(strided(x), F.linear(x, weight, bias)) and strided._packed["native"].is_contiguous()


# --------------------------------------------------------------------------------------------------------------- errors


def test_inputs_that_do_not_fit_the_layer_are_refused() -> None:
    layer = nn.Linear(5, 3)
    cases: list[tuple[Any, type, str]] = [
        (
            torch.ones(2, 4),
            ShapeError,
            "5 features, got 4. x: (2, 4). weight: (3, 5). Set in_features=4, or check the layer before.",
        ),
        (torch.ones(()), ShapeError, "x of shape (*, in), got (). Add an axis with unsqueeze(0)."),
        (
            torch.ones(2, 5).double(),
            DtypeError,
            "weight of x's type, float64, got float32. x: (2, 5). Convert one with .to().",
        ),
        (
            torch.ones(2, 5).long(),
            DtypeError,
            "weight of x's type, int64, got float32. x: (2, 5). Convert one with .to().",
        ),
        (torch.ones(2, 5).bool(), DtypeError, "numbers, got bool. x: (2, 5). Convert x with .float()."),
        (
            torch.ones(2, 5, device="meta"),
            ArgumentError,
            "weight on x's device, meta, got cpu. x: (2, 5). Move one with .to().",
        ),
    ]
    for x, error, text in cases:
        with pytest.raises(error) as raised:
            layer(x)
        assert str(raised.value) == f"Linear expects {text}"
        assert isinstance(raised.value, RuntimeError)
        with pytest.raises(RuntimeError):
            torch.nn.Linear(5, 3)(x)
    with pytest.raises(ArgumentTypeError) as no_tensor:
        layer([1.0])
    text = "Linear expects x to be a tensor, got list. Call torch.as_tensor on it first."
    assert str(no_tensor.value) == text and isinstance(no_tensor.value, TypeError)


def test_tensors_that_do_not_fit_each_other_are_refused() -> None:
    x, w, b, _ = sample((2, 5), 3)
    cases: list[tuple[tuple[Any, ...], type, str]] = [
        ((x, None), ArgumentTypeError, "weight to be a tensor, got NoneType. Call torch.as_tensor on it first."),
        ((x, w, 1.0), ArgumentTypeError, "bias to be a tensor, got float. Call torch.as_tensor on it first."),
        ((x, w[None]), ShapeError, "a weight of shape (out, in), got (1, 3, 5). x: (2, 5). Flatten it."),
        ((x, w.sum()), ShapeError, "a weight of shape (out, in), got (). x: (2, 5). Flatten it."),
        (
            (x, w, torch.ones(4)),
            ShapeError,
            "a bias of shape (3,), got (4,). x: (2, 5). weight: (3, 5). Give one number for each output.",
        ),
        (
            (x, w, b.double()),
            DtypeError,
            "bias of x's type, float32, got float64. x: (2, 5). Convert one with .to().",
        ),
    ]
    for given, error, text in cases:
        for function in (ops.linear, SF.linear):
            with pytest.raises(error) as raised:
                function(*given)
            assert str(raised.value) == f"linear expects {text}"
        with pytest.raises((RuntimeError, TypeError)):
            F.linear(*given)


def test_operators_check_what_could_hurt_a_kernel() -> None:
    x, w, b, dy = sample((2, 5), 3)
    own = torch.ops.striate
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: own.linear(x, w[0], None, 0, -inf, inf), "a weight has outputs and inputs"),
        (lambda: own.linear(x[0, 0], w, None, 0, -inf, inf), "an input has features"),
        (lambda: own.linear(x[:, :4], w, None, 0, -inf, inf), "a weight fits the features"),
        (lambda: own.linear(x, w.double(), None, 0, -inf, inf), "weight is of the input's type"),
        (lambda: own.linear(x, w, b[:2], 0, -inf, inf), "a bias has a number for each output"),
        (lambda: own.linear(x, w, b.double(), 0, -inf, inf), "bias is of the input's type"),
        (lambda: own.linear(x.half(), w.half(), None, 0, -inf, inf), "kernels take float32 and float64"),
        (lambda: own.linear_backward_data(x, w), "a weight fits the features of dy"),
        (lambda: own.linear_backward_data(dy.double(), w), "weight is of the input's type"),
        (lambda: own.linear_backward_weights(dy[:1], x), "x and dy have the same leading axes"),
        (lambda: own.linear_backward_weights(dy[0], x), "x and dy have the same leading axes"),
        (lambda: own.linear_backward_weights(dy, x.double()), "dy is of the input's type"),
    ]
    for call, text in cases:
        with pytest.raises(RuntimeError) as raised:
            call()
        assert f"striate: {text}" in str(raised.value)
