"""Networks that nobody here wrote, as their packages build them, and what is asked of each: one table, one function a
step.

Networks come from timm, pytorchcv and MONAI, with weights as their constructors draw them. Nothing is downloaded. Each
is made small by its own arguments (few and narrow blocks, small images): what counts here is which operations it has
and how they are connected.

The steps, in order: ``evaluation`` and ``training`` of the accelerated network against float64, ``copied``, ``pickled``
and ``exported``, ``restored``, and of the restored one ``frozen``, ``folded`` and ``inspected``. ``refused`` of a
:class:`Network` lists the steps that are refused, with words of the error: for ``pickled`` and ``exported``, the error
of the plain network. A step that begins to work has to leave the table.

How near float64 is near enough? An error is a tensor's distance from the one computed in float64, in parts of its root
mean square,

    error(t) = rms(t - exact) / rms(exact),

and the accelerated network's may be a factor times the plain network's in float32, or as many roundings where that is
more. ``FACTORS`` has 4 for convolutions summed as written, because among hundreds of tensors some are always worse than
the rest, and 16 for minimal filtering, whose own errors are up to 13 times torch's (docs/kernels/winograd.md, 512
channels).

- The plain network's error is the largest of ``NUDGES`` + 1 runs, all but one of them on an input off by one rounding,
  and counts as at least the median over the step's tensors: a single run of few numbers is sometimes exact by chance.
- A gradient that cancels to nearly zero (of a bias before a norm) is compared with ``CANCELS`` of the rms of all
  gradients.
- Gradients are discontinuous where a unit is at the kink of its ReLU or two maxima swap, in float32 as in float64.
  They may exceed the bound on all but one of ``DRAWS`` draws of the input: a wrong kernel is wrong on every draw.
- Outputs, loss and running statistics are continuous, and may never exceed it. (Networks where they are not are left
  out: those that draw random numbers, and those that unpool by the positions of maxima.)

After ``make nightly``, whose tests leave a file for each network in build/published, ``python tests/published.py``
writes docs/ecosystem-networks.md.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import json
import math
import os
import pickle
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from adapted import package
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import striate
from striate.deploy import freeze
from striate.errors import ArgumentError
from striate.measure import processor
from striate.nn import swap
from striate.render.numbers import short

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "build" / "published"
REPORT = ROOT / "docs" / "ecosystem-networks.md"

FACTORS = {"strict": 4.0, "fast": 16.0}
ROUNDING = torch.finfo(torch.float32).eps
CANCELS = 1e-3
# above this error of a continuous result in the plain network, a comparison means nothing: it depends on chance
MEANINGLESS = 1e-2
NUDGES = 2
DRAWS = 5


class Whole(NamedTuple):
    """An input of random whole numbers below ``end``."""

    end: int
    shape: tuple[int, ...]


class Network(NamedTuple):
    """One network: its package, name and arguments, and the shapes of its inputs."""

    source: str
    name: str
    inputs: tuple[tuple[int, ...] | Whole, ...]
    arguments: dict[str, Any]
    small: bool  # runs with every test, not only with `make nightly`
    refused: dict[str, str]  # by step, words of the error that refuses it

    @property
    def id(self) -> str:
        return f"{self.source} {self.name}"


# ---------------------------------------------------------------------------------------------------------------- table

SOURCES = {"timm": "timm", "pytorchcv": "pytorchcv", "MONAI": "monai"}  # with the package's name


def _timm(name: str, side: int = 64, *, batch: int = 4, **rest: Any) -> Network:
    return _network("timm", name, ((batch, 3, side, side),), num_classes=7, **rest)


def _cv(name: str, *shape: int, **rest: Any) -> Network:
    return _network("pytorchcv", name, (shape,), **rest)


def _street(name: str, **rest: Any) -> Network:
    return _cv(name, 2, 3, 64, 128, in_size=(64, 128), num_classes=5, **rest)


def _monai(name: str, *inputs: tuple[int, ...] | Whole, **rest: Any) -> Network:
    return _network("MONAI", name, inputs, **rest)


def _network(
    source: str,
    name: str,
    inputs: tuple[tuple[int, ...] | Whole, ...],
    *,
    small: bool = False,
    refused: dict[str, str] | None = None,
    **arguments: Any,
) -> Network:
    return Network(source, name, inputs, arguments, small, refused or {})


# What fold says of a forward that asks for sizes in conditions, and torch.export of one that asks for values.
SIZES = "a model whose code asks for no size in a condition"
VALUES = "Could not guard on data-dependent expression"

NETWORKS = [
    _timm("test_byobnet"),
    _timm("test_convnext"),
    _timm("test_mambaout"),
    _timm("test_coatnet", img_size=64),
    _timm("test_nfnet"),
    _timm("test_resnet"),
    _timm("test_vit", img_size=64, refused={"folded": SIZES}),
    _timm("test_efficientnet", small=True),
    _timm("test_efficientnet_evos"),
    _timm("eca_botnext26ts_256", img_size=64),
    _timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=96, num_heads=4),
    _timm("cait_xxs24_224", img_size=64, depth=2),
    _timm("convit_tiny", img_size=64, depth=3, local_up_to_layer=2, refused={"folded": SIZES}),
    _timm("cpubone_nano", refused={"folded": SIZES}),
    _timm("cs3darknet_s"),
    _timm("cspnext_tiny"),
    _timm("deit_tiny_distilled_patch16_224", small=True, img_size=64, depth=2),
    _timm("densenet121", block_config=(2, 2, 2, 2)),
    _timm("densenetblur121d", block_config=(2, 2, 2, 2)),
    _timm("dla46x_c"),
    _timm("dpn48b", k_sec=(1, 1, 1, 1)),
    _timm("edgenext_xx_small"),
    _timm("efficientvim_m1"),
    _timm("efficientvit_b0"),
    _timm("efficientvit_m0", img_size=64, refused={"folded": SIZES}),
    _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=2),
    _timm("fasternet_t0"),
    _timm("fastvit_t8", layers=(1, 1, 1, 1)),
    _timm("ghostnet_050"),
    _timm("hgnetv2_b0"),
    _timm("hiera_tiny_224", img_size=64, stages=(1, 1, 1, 1), embed_dim=32),
    _timm("inception_next_atto"),
    _timm("lcnetv2_small"),
    _timm("levit_128s", img_size=64),
    _timm("lcnet_035"),
    _timm("mobilenetv3_small_050"),
    _timm("mobilenetv4_conv_small_035"),
    _timm("mobilevit_xxs", refused={"folded": SIZES}),
    _timm("mobilevitv2_050", refused={"folded": SIZES}),
    _timm("nf_regnet_b0"),
    _timm("pit_ti_224", img_size=64),
    _timm("pvt_v2_b0"),
    _timm("regnetx_002"),
    _timm("regnety_002"),
    _timm("repghostnet_050"),
    _timm("repvit_m0_9", depth=(1, 1, 2, 1)),
    _timm("res2net50_26w_4s", layers=(1, 1, 1, 1)),
    _timm("resnest14d"),
    _timm("rexnet_100"),
    _timm("resnetv2_50", layers=(1, 1, 1, 1)),
    _timm("selecsls42b"),
    _timm("sequencer2d_s", img_size=64, layers=(1, 1, 1, 1)),
    _timm("shvit_s1"),
    _timm("skresnet18"),
    _timm("starnet_s050"),
    _timm("swiftformer_xs"),
    _timm(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        depths=(1, 1, 1, 1),
        embed_dim=32,
        num_heads=(2, 4, 8, 8),
        window_size=4,
    ),
    _timm(
        "swinv2_tiny_window8_256", img_size=64, depths=(1, 1, 1, 1), embed_dim=32, num_heads=(2, 4, 8, 8), window_size=4
    ),
    _timm("tnt_s_legacy_patch16_224", img_size=64, depth=2),
    _timm("tresnet_m", layers=(1, 1, 1, 1)),
    _timm("twins_svt_small", img_size=64, depths=(1, 1, 2, 1), refused={"folded": SIZES}),
    _timm("visformer_tiny", img_size=64),
    _timm("vit_relpos_small_patch16_224", img_size=64, depth=2),
    _timm("ese_vovnet19b_slim_dw"),
    _timm("xcit_nano_12_p16_224", img_size=64, depth=2),
    _cv("cbamresnet.cbam_resnet18", 1, 3, 224, 224),
    _cv("darknet.darknet_tiny", 2, 3, 224, 224),
    _cv("densenet_cifar.densenet40_k12_bc_cifar10", 4, 3, 32, 32),
    _cv("espnetv2.espnetv2_wd2", 1, 3, 224, 224, refused={"pickled": "Can't pickle"}),
    _cv("fdmobilenet.fdmobilenet_wd4", 2, 3, 224, 224),
    _cv("hardnet.hardnet39ds", 1, 3, 224, 224),
    _cv("nin_cifar.nin_cifar10", 4, 3, 32, 32),
    _cv(
        "octresnet.octresnet10_ad2",
        2,
        3,
        224,
        224,
        refused={"pickled": "Can't pickle"},
    ),
    _cv("preresnet_cifar.preresnet20_cifar10", 4, 3, 32, 32),
    _cv("shufflenetv2b.shufflenetv2b_wd2", 1, 3, 224, 224),
    _cv("squeezenet.squeezenet_v1_1", 1, 3, 224, 224),
    _street("cgnet.cgnet_cityscapes", refused={"pickled": "Can't pickle"}),
    _street("contextnet.ctxnet_cityscapes"),
    _street("edanet.edanet_cityscapes"),
    _street("espcnet.espcnet_cityscapes", refused={"pickled": "Can't pickle"}),
    _street("fastscnn.fastscnn_cityscapes"),
    _street("linknet.linknet_cityscapes"),
    _street("unet.unet_cityscapes"),
    _cv(
        "simplepose_coco.simplepose_resnet18_coco",
        1,
        3,
        64,
        64,
        refused={
            "exported": VALUES,
            "frozen": "got one that asks for a value (at tutti.py:430)",
            "folded": "a model that runs on tensors without values",
        },
    ),
    _monai(
        "UNet",
        (2, 1, 32, 32),
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=1,
    ),
    _monai("SegResNet", (2, 1, 16, 16, 16), spatial_dims=3, init_filters=8, in_channels=1, out_channels=2),
    _monai(
        "AttentionUnet",
        (2, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
    ),
    _monai(
        "AutoEncoder",
        (2, 1, 16, 16, 16),
        small=True,
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(4, 8),
        strides=(2, 2),
    ),
    _monai(
        "BasicUNet",
        (1, 1, 32, 32, 32),
        spatial_dims=3,
        features=(4, 4, 8, 8, 8, 4),
        refused={"folded": SIZES},
    ),
    _monai("Discriminator", (2, 1, 16, 16), small=True, in_shape=(1, 16, 16), channels=(4, 8), strides=(2, 2)),
    _monai("Generator", (2, 8), small=True, latent_shape=(8,), start_shape=(8, 4, 4), channels=(8, 4), strides=(2, 2)),
    _monai(
        "DenseNet",
        (2, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        init_features=8,
        growth_rate=4,
        block_config=(2, 2),
    ),
    _monai(
        "DynUNet",
        (1, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        kernel_size=(3, 3, 3),
        strides=(1, 2, 2),
        upsample_kernel_size=(2, 2),
        filters=(8, 16, 16),
        res_block=True,
    ),
    _monai(
        "FlexibleUNet",
        (1, 3, 64, 64),
        in_channels=3,
        out_channels=2,
        backbone="resnet10",
        spatial_dims=2,
        refused={"folded": SIZES},
    ),
    _monai(
        "HighResNet",
        (1, 1, 16, 16, 16),
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
    ),
    _monai(
        "LocalNet",
        (2, 2, 16, 16),
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        num_channel_initial=4,
        extract_levels=(0, 1, 2),
        refused={"folded": SIZES},
    ),
    _monai(
        "RegUNet",
        (2, 2, 16, 16),
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        num_channel_initial=4,
        depth=2,
        refused={"folded": SIZES},
    ),
    _monai(
        "MedNeXt",
        (1, 1, 32, 32, 32),
        spatial_dims=3,
        init_filters=4,
        in_channels=1,
        out_channels=2,
        blocks_down=(1, 1, 1, 1),
        blocks_bottleneck=1,
        blocks_up=(1, 1, 1, 1),
    ),
    _monai(
        "MultiScalePatchDiscriminator",
        (2, 1, 64, 64),
        num_d=2,
        num_layers_d=2,
        spatial_dims=2,
        channels=8,
        in_channels=1,
    ),
    _monai(
        "ResNet",
        (2, 1, 16, 16, 16),
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 16, 16, 32],
        spatial_dims=3,
        n_input_channels=1,
        num_classes=2,
    ),
    _monai(
        "SegResNetDS",
        (1, 1, 32, 32, 32),
        spatial_dims=3,
        init_filters=8,
        in_channels=1,
        out_channels=2,
        blocks_down=(1, 1, 1),
        refused={"folded": SIZES},
    ),
    _monai("VNet", (1, 1, 32, 32, 32), spatial_dims=3, in_channels=1, out_channels=2),
    _monai(
        "ViT",
        (2, 1, 32, 32),
        in_channels=1,
        img_size=32,
        patch_size=8,
        hidden_size=24,
        mlp_dim=48,
        num_layers=2,
        num_heads=4,
        spatial_dims=2,
        classification=True,
    ),
    _monai(
        "DiffusionModelUNet",
        (2, 1, 16, 16),
        Whole(8, (2,)),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        attention_levels=(False, True),
        num_head_channels=(0, 8),
        num_res_blocks=1,
        norm_num_groups=8,
        refused={"folded": SIZES},
    ),
]

# ---------------------------------------------------------------------------------------------------------------- build


def build(network: Network) -> Module:
    """Builds the network as its package does, changed so that the steps are meaningful and deterministic.

    Layers that are initialized to nearly zero (a last norm's scale of 0, a branch's scale of 1e-6) would hide those
    before them, so constant parameters get random values around the constant. Batch norms get the statistics of one
    batch. The rates of dropout and drop path are 0.
    """
    torch.manual_seed(0)
    if network.source == "timm":
        model = package("timm").create_model(network.name, **network.arguments)
    elif network.source == "pytorchcv":
        module, _, name = network.name.partition(".")
        model = getattr(package(f"pytorchcv.models.{module}"), name)(**network.arguments)
    else:
        model = getattr(package("monai.networks.nets"), network.name)(**network.arguments)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() > 1 and p.min() == p.max():
                p.add_(torch.empty_like(p).uniform_(-0.1, 0.1))
        for layer in model.modules():
            if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
                layer.p = 0.0
            if isinstance(getattr(layer, "drop_prob", None), float):
                layer.drop_prob = 0.0
        for norm in norms:
            norm.momentum = 1.0
        model.train()(*drawn(network, 0))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def drawn(network: Network, draw: int) -> tuple[Tensor, ...]:
    """Random inputs of the table's shapes, seeded by ``draw``."""
    torch.manual_seed(100 + draw)
    return tuple(torch.randint(x.end, x.shape) if isinstance(x, Whole) else torch.randn(x) for x in network.inputs)


def _floats(xs: tuple[Tensor, ...], change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return tuple(change(x) if x.is_floating_point() else x for x in xs)


def _nudged(xs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Moves each number up or down by a rounding at random; seed 0 changes nothing."""
    torch.manual_seed(200 + seed)
    return _floats(xs, lambda x: x * (1 + ROUNDING * torch.empty_like(x).bernoulli_().mul_(2).sub_(1))) if seed else xs


def outputs(model: Callable[..., Any], xs: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that the model returns, without gradients, from the same random state each time."""
    torch.manual_seed(1)
    with torch.no_grad():
        return [y for y in tree_leaves(model(*xs)) if isinstance(y, Tensor)]


@dataclass
class Step:
    """The results of a training step: gradients by parameter name, which are discontinuous, and ``smooth``, the loss
    and the buffers.
    """

    gradients: dict[str, Tensor]
    smooth: dict[str, Tensor]


def trained(model: Module, xs: tuple[Tensor, ...]) -> Step:
    """Runs one training step of a copy. The loss is the sum of the outputs' mean squared distances from random targets.
    """
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for y in [y for y in tree_leaves(model(*xs)) if isinstance(y, Tensor) and y.is_floating_point()]:
        target = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        loss = loss + (y - target.to(y.dtype)).square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Step(gradients, {"the loss": loss.detach(), **dict(model.named_buffers())})


# --------------------------------------------------------------------------------------------------------------- errors


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0


def error(got: Tensor, exact: Tensor, cancels: float = 0.0) -> float:
    """The relative error: rms(t - exact) / max(rms(exact), ``cancels``)."""
    assert got.shape == exact.shape and bool(got.isfinite().all()), "another shape, or what is not finite"
    apart = _rms(got.double() - exact.double())
    return apart / max(_rms(exact), cancels) if apart else 0.0


class Errors(NamedTuple):
    """The errors of one tensor, or of the worst of many: the plain network's in float32, the accelerated one's, and the
    bound on the latter.
    """

    name: str
    torchs: float
    native: float
    allowed: float

    def check(self) -> None:
        message = f"{self.name} is off {self.native:.1e}, torch's float32 {self.torchs:.1e}, allowed {self.allowed:.1e}"
        assert self.native <= self.allowed, message


def _worst(errors: list[Errors]) -> Errors:
    return max(errors, key=lambda e: e.native / e.allowed)


def _errors(
    plain: list[dict[str, Tensor]],
    native: dict[str, Tensor],
    exact: dict[str, Tensor],
    factor: float,
    cancels: float = 0.0,
) -> list[Errors]:
    """The errors of tensors by name, against float64. Of the runs in ``plain`` the largest error counts, and at least
    the median over the tensors.
    """
    assert all(one.keys() == exact.keys() for one in [*plain, native])
    names = [name for name, t in exact.items() if t.is_floating_point()]
    torchs = {name: max(error(one[name], exact[name], cancels) for one in plain) for name in names}
    least = max(sorted(torchs.values())[len(names) // 2], ROUNDING) if names else ROUNDING
    return [
        Errors(name, torchs[name], error(native[name], exact[name], cancels), factor * max(torchs[name], least))
        for name in names
    ]


# ---------------------------------------------------------------------------------------------------------------- steps


@dataclass
class Case:
    """A network during the steps: as published, accelerated, and in float64."""

    network: Network
    plain: Module
    accelerated: Module
    exact: Module
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return drawn(self.network, 0)

    def same(self, other: Callable[..., Any], of: Callable[..., Any]) -> None:
        """Checks that both modules give the same bits."""
        for a, b in zip(outputs(other, self.inputs), outputs(of, self.inputs), strict=True):
            assert torch.equal(a, b)


def start(network: Network) -> Case:
    plain = build(network)
    accelerated, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    left = swap.plan(accelerated)[1]
    with warnings.catch_warnings():
        if left:
            warnings.filterwarnings("ignore", f"accelerate left {len(left)} of ")
        assert striate.accelerate(accelerated) is accelerated
    case = Case(network, plain, accelerated, exact)
    case.row = {
        "network": network.id,
        "version": importlib.metadata.version(SOURCES[network.source]),
        "left": len(left),
    }
    return case


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {f"output {k}": t for k, t in enumerate(tensors)}


def evaluation(case: Case) -> None:
    """Outputs are as near float64 as the plain network's, in either precision."""
    exact = _numbered(outputs(case.exact, _floats(case.inputs, Tensor.double)))
    plain = [_numbered(outputs(case.plain, _nudged(case.inputs, seed))) for seed in range(NUDGES + 1)]
    for precision, factor in FACTORS.items():
        with striate.precision(precision):
            errors = _errors(plain, _numbered(outputs(case.accelerated, case.inputs)), exact, factor)
        assert any(_rms(y) > 0 for y in exact.values()) and max(e.torchs for e in errors) < MEANINGLESS
        worst = _worst(errors)
        case.row.setdefault("evaluation", [worst.torchs]).append(worst.native)
        worst.check()


def training(case: Case) -> None:
    """Loss, running statistics and gradients are as near float64 as the plain network's, in either precision."""
    for precision, factor in FACTORS.items():
        for draw in range(DRAWS):
            xs = drawn(case.network, draw)
            with striate.precision(precision):
                native = trained(case.accelerated, xs)
            exact = trained(case.exact, _floats(xs, Tensor.double))
            plain = [trained(case.plain, _nudged(xs, seed)) for seed in range(NUDGES + 1)]
            for name, b in native.smooth.items():
                assert b.is_floating_point() or torch.equal(b, plain[0].smooth[name])
            assert sum(bool(g.any()) for g in exact.gradients.values()) > len(exact.gradients) / 2, (
                "most gradients are 0"
            )
            smooth = _errors([one.smooth for one in plain], native.smooth, exact.smooth, factor)
            assert max(e.torchs for e in smooth) < MEANINGLESS
            _worst(smooth).check()
            cancels = CANCELS * _rms(torch.cat([g.flatten() for g in exact.gradients.values()]))
            plain_gradients = [one.gradients for one in plain]
            worst = _worst(_errors(plain_gradients, native.gradients, exact.gradients, factor, cancels))
            if worst.native <= worst.allowed or draw == DRAWS - 1:
                break
        worst.check()
        case.row.setdefault("training", []).extend([worst.torchs, worst.native])


def copied(case: Case) -> None:
    case.same(copy.deepcopy(case.accelerated), case.accelerated)


class PlainNetworkError(Exception):
    """Checks that the plain network refuses the step too."""


@contextlib.contextmanager
def _of_the_plain_network() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise PlainNetworkError(str(error)) from error


def pickled(case: Case) -> None:
    with _of_the_plain_network():
        pickle.dumps(case.plain)
    case.same(pickle.loads(pickle.dumps(case.accelerated)), case.accelerated)


def exported(case: Case) -> None:
    """torch.export exports the accelerated network like the plain one: with torch's operators, and the same bits."""
    with _of_the_plain_network():
        plain = torch.export.export(case.plain, case.inputs)
    exported_model = torch.export.export(case.accelerated, case.inputs)
    assert not any("striate" in str(node.target) for node in exported_model.graph.nodes)
    case.same(exported_model.module(), plain.module())


def restored(case: Case) -> None:
    """Classes, the parameters themselves and the outputs' bits are as before ``accelerate``."""
    before = {name: (p, p.data_ptr()) for name, p in case.accelerated.named_parameters()}
    assert striate.restore(case.accelerated) is case.accelerated
    after = {name: (p, p.data_ptr()) for name, p in case.accelerated.named_parameters()}
    assert before.keys() == after.keys() and all(
        after[name][0] is p and after[name][1] == at for name, (p, at) in before.items()
    )
    assert [type(m) for m in case.accelerated.modules()] == [type(m) for m in case.plain.modules()]
    for a, b in zip(case.accelerated.state_dict().values(), case.plain.state_dict().values(), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
    case.same(case.accelerated, case.plain)


def frozen(case: Case) -> None:
    """On two batch sizes within freeze's bound, and the same bits after saving and loading."""
    with _no_warning("freeze "):
        made = striate.freeze(case.accelerated, case.inputs)
    path = ROWS / f"{os.getpid()}.safetensors"
    try:
        made.save(path)
        loaded = striate.load_frozen(path)
    finally:
        path.unlink(missing_ok=True)
    more = tuple(torch.cat([x, x[:1]]) for x in case.inputs)
    found = 0.0
    for xs in (case.inputs, more):
        for y, same, expected in zip(outputs(made, xs), outputs(loaded, xs), outputs(case.plain, xs), strict=True):
            assert torch.equal(y, same) and y.shape == expected.shape
            found = max(found, float((y.double() - expected.double()).abs().max()) / _rms(expected))
    case.row["frozen"] = found
    assert found <= freeze.ERROR


def folded(case: Case) -> None:
    """The folded network's outputs are as near float64 as the network's."""
    with _no_warning("fold "):
        made, message = striate.fold(case.accelerated, case.inputs)
    exact = _numbered(outputs(case.exact, _floats(case.inputs, Tensor.double)))
    plain = [_numbered(outputs(case.plain, _nudged(case.inputs, seed))) for seed in range(NUDGES + 1)]
    case.row["folded"] = [message.folded, message.refused]
    _worst(_errors(plain, _numbered(outputs(made, case.inputs)), exact, FACTORS["strict"])).check()


def inspected(case: Case) -> None:
    """Counts parameters like torch, and multiply-adds like torch's counter, extended by two formulas."""
    totals = striate.inspect(case.accelerated, case.inputs if len(case.inputs) > 1 else case.inputs[0]).totals
    with FlopCounterMode(display=False, custom_mapping=ALSO_COUNTED) as counter:
        # with gradients: without them the counter breaks on a module that is given a view of a parameter
        case.plain(*case.inputs)
    case.row["parameters"], case.row["macs"] = totals["parameters"], totals["macs"]
    assert totals["parameters"] == sum(p.numel() for p in case.plain.parameters())
    assert totals["macs"] == counter.get_total_flops() // 2


def _attention_flops(query: Any, key: Any, value: Any, *rest: Any, **others: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _lstm_flops(x: Any, input_weight: Any, state_weight: Any, *rest: Any, **others: Any) -> int:
    """For x (steps, N, in): each step multiplies the input by the input weights, and the state by the state weights."""
    return 2 * math.prod(x[:-1]) * (math.prod(input_weight) + math.prod(state_weight))


ALSO_COUNTED = {  # torch's counter has formulas for attention on GPUs only, and none for recurrent layers
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
}


@contextlib.contextmanager
def _no_warning(begins: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", begins)
        yield


STEPS = (evaluation, training, copied, pickled, exported, restored, frozen, folded, inspected)
REFUSALS: dict[str, type[Exception]] = {  # which steps may be refused, by which error
    "pickled": PlainNetworkError,
    "exported": PlainNetworkError,
    "frozen": ArgumentError,
    "folded": ArgumentError,
}


def take_all(network: Network) -> dict[str, Any]:
    """Takes every step. Returns the report's row, and writes it to build/published."""
    ROWS.mkdir(parents=True, exist_ok=True)
    case = start(network)
    assert network.refused.keys() <= REFUSALS.keys()
    for step in STEPS:
        name = step.__name__
        words = network.refused.get(name)
        if words is None:
            step(case)
            continue
        try:
            step(case)
        except REFUSALS[name] as error:
            message = " ".join(str(error).split())
        else:
            raise AssertionError(f"{name} of {network.id} works now: take {words!r} out of the table")
        assert words in message, f"{network.id} is refused with other words: {message}"
        case.row[name] = words
    (ROWS / f"{network.id}.json").write_text(json.dumps(case.row))
    return case.row


# --------------------------------------------------------------------------------------------------------------- report

HEAD = """# Networks nobody here wrote

{count} networks of {packages}, built small by their own arguments (the table in `tests/published.py`), each taken
through `accelerate` → evaluation and a training step against float64 → `copy.deepcopy`, `pickle`, `torch.export` →
`restore` → `freeze` (two batch sizes, saved and loaded) → `fold` → `inspect` (parameters, MACs against torch's
counter). Made by `make nightly`, on {machine}.

An error is a distance from float64 in parts of the root mean square. Evaluation: torch's in float32, striate's with
`precision("strict")`, striate's. Training step: of the gradient that comes nearest to what `tests/published.py`
allows, torch's and striate's with `precision("strict")`, then torch's and striate's. Frozen: the largest difference
from the network, in parts of its outputs' root mean square. Folded: batch norms folded, of all. A number in brackets:
refused, and below are the words of the error that say so. Of exporting and pickling they are torch's and Python's
own, about the plain network. Left: layers that `accelerate` leaves to torch, being subclasses with code of their own.

| network | parameters | MACs | left | evaluation | training step | frozen | folded | exported | pickled |
|---|---|---|---|---|---|---|---|---|---|
"""


def report(rows: list[dict[str, Any]]) -> str:
    """The page: one row per network, then the refused steps with the words of their errors."""
    notes: dict[str, int] = {}

    def mark(words: str) -> str:
        return f"[{notes.setdefault(words, len(notes) + 1)}]"

    lines = []
    for row in rows:
        cells = [row["network"], short(row["parameters"]), short(row["macs"]), str(row["left"])]
        cells += [" / ".join(f"{e:.0e}" for e in row["evaluation"]), " / ".join(f"{e:.0e}" for e in row["training"])]
        cells.append(mark(row["frozen"]) if isinstance(row["frozen"], str) else f"{row['frozen']:.0e}")
        cells.append(
            mark(row["folded"]) if isinstance(row["folded"], str) else f"{row['folded'][0]} of {sum(row['folded'])}"
        )
        cells += [mark(row[step]) if step in row else "yes" for step in ("exported", "pickled")]
        lines.append(f"| {' | '.join(cells)} |")
    versions = {row["network"].partition(" ")[0]: row["version"] for row in rows}
    packages = ", ".join(f"{source} {version}" for source, version in versions.items())
    machine = f"{processor()}, {striate.native_info()['isa']}"
    head = HEAD.format(count=len(rows), packages=packages, machine=machine).split("\n\n")
    head[1:3] = (textwrap.fill(text, 120, break_on_hyphens=False) for text in head[1:3])
    page = "\n\n".join(head) + "\n".join(lines) + "\n"
    return page + "".join(f"\n{number}. {words.removeprefix('got ')}" for words, number in notes.items()) + "\n"


def main() -> None:
    files = {network.id: ROWS / f"{network.id}.json" for network in NETWORKS}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise SystemExit(f"no result of {', '.join(missing)}: run `make nightly` first")
    REPORT.write_text(report([json.loads(file.read_text()) for file in files.values()]))


if __name__ == "__main__":
    main()
