"""Normalization layers: drop-ins for torch.nn's, and what torch.nn lacks.

Every one can compute an activation behind it in the same pass: a container asks for it at a call (see
:mod:`.container`), and the ``…Act2d`` layers, which are modules of their own and no subclasses of torch's norms, have
one by name.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .. import _torch
from ..errors import ArgumentError, ShapeError, build
from ..ops import local_response
from ..ops import norm as ops
from ..ops.arguments import as_int, is_int
from ..ops.sync_batch_norm import synchronized_batch_norm
from .namesake import Namesake, as_torch, recorded

__all__ = [
    "AdaIN",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct2d",
    "GhostBatchNorm2d",
    "GroupNorm",
    "GroupNormAct2d",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "NoisyBatchNorm2d",
    "RMSNorm",
    "SyncBatchNorm",
    "adaptive_instance_norm",
]


# What says that a batch was refused. Others end a call for reasons of their own: a checkpoint stops when it has made
# again what it needs.
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


class _Activated(Namesake):
    """What a layer does after it has normalized; nothing unless told. TorchScript computes it behind the namesake."""

    activation: str | None = None
    negative_slope: float = 0.01
    frozen = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = [name for base in cls.__mro__ for name in base.__dict__.get("__constants__", ())]
        cls.__constants__ = list(dict.fromkeys([*known, "activation", "negative_slope", "frozen"]))

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return ops.activated(self._as_torch(input), self.activation, self.negative_slope)
        else:
            return self._compute(input) if isinstance(input, Tensor) else recorded(self, self._compute, input)

    def _told(self, following: tuple[str, float] | None) -> dict[str, Any]:
        """What the kernel computes behind the norm, a container's activation and its slope or the layer's own, and what
        errors name.
        """
        name, slope = following or (self.activation, self.negative_slope)
        return {"activation": name, "slope": slope, "where": type(self).__name__}

    def extra_repr(self: Any) -> str:
        told: str = super().extra_repr()  # type: ignore[misc]
        if self.activation is not None:
            told += f", activation={self.activation!r}"
            if self.activation == "leaky_relu":
                told += f", negative_slope={self.negative_slope}"
        return told


def _set_activation(module: Any, activation: str | None, negative_slope: float) -> None:
    ops.check_activation(activation, type(module).__name__)
    module.activation, module.negative_slope = activation, negative_slope


def _dimensions(x: Any, allowed: tuple[int, ...], where: str, shape: str) -> None:
    if isinstance(x, Tensor) and x.dim() not in allowed:
        raise ShapeError(
            build(where, f"x of shape {shape}", tuple(x.shape), hint="Add or drop axes with unsqueeze or flatten.")
        )


class _BatchNorm(_Activated):
    """The body of every batch norm: which statistics, and what becomes of the running ones."""

    whole_batch: Any = None  # see nn/statistics.py
    _ranks: tuple[int, ...] = (2, 3, 4, 5)
    _shape = "(N, C) or (N, C, *axes)"

    def freeze(self: Any, parameters: bool = False) -> Any:
        """Normalizes with the running statistics from now on and leaves them alone, in training too; returns the layer.

        ``train()`` and ``eval()`` change nothing about it, :meth:`unfreeze` does. With ``parameters`` scale and shift
        get no gradient either, until ``unfreeze(parameters=True)``. Frozen is part of a copy and of a pickle, not of
        ``state_dict``.

        Nobody measures the statistics again, so nobody clears them: ``reset_running_stats()`` does nothing, and with it
        ``torch.optim.swa_utils.update_bn``, which begins with that; ``reset_parameters()`` draws scale and shift anew
        alone. Unfreeze the layer first to clear them.

        Raises ArgumentError without running statistics.

        >>> layer = BatchNorm2d(3).freeze().train()
        >>> y = layer(torch.full((2, 3, 4, 4), 5.0))
        >>> layer.running_mean, layer.num_batches_tracked
        (tensor([0., 0., 0.]), tensor(0))
        """
        if self.running_mean is None:
            where = type(self).__name__
            raise ArgumentError(
                build(
                    f"{where}.freeze",
                    "running statistics",
                    None,
                    hint="Build the layer with track_running_stats=True and train it.",
                )
            )
        self.frozen = True
        return self._learn(False) if parameters else self

    def unfreeze(self: Any, parameters: bool = False) -> Any:
        """Undoes :meth:`freeze`; returns the layer.

        >>> BatchNorm2d(3).freeze().unfreeze().frozen
        False
        """
        self.frozen = False
        return self._learn(True) if parameters else self

    def reset_running_stats(self: Any) -> None:
        """Sets the running statistics to 0 and 1 and begins counting anew; of a frozen layer they stay."""
        if not self.frozen:
            super().reset_running_stats()  # type: ignore[misc]

    def _learn(self: Any, whether: bool) -> Any:
        for p in (self.weight, self.bias):
            if p is not None:
                p.requires_grad_(whether)
        return self

    def _check_input_dim(self, input: Any) -> None:
        if not torch.jit.is_scripting():
            self._check_rank(input)

    def _check_rank(self, input: Any) -> None:
        _dimensions(input, self._ranks, type(self).__name__, self._shape)

    def _step(self: Any) -> float:
        """Counts a batch; returns the weight it has in the running statistics."""
        batches = self.num_batches_tracked
        if batches is not None:
            batches.add_(1)
            if self.momentum is None:  # the mean of all batches so far
                return 1.0 / float(batches)
        return 0.0 if self.momentum is None else self.momentum

    def _batches(self: Any, input: Tensor) -> int:
        return 1

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return ops.activated(self._scripted(input), self.activation, self.negative_slope)
        else:
            return self._compute(input) if isinstance(input, Tensor) else recorded(self, self._compute, input)

    def _scripted(self, input: Tensor) -> Tensor:
        if self.frozen:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        else:
            return self._as_torch(input)

    def _compute(
        self: Any,
        input: Tensor,
        residual: Tensor | None = None,
        following: tuple[str, float] | None = None,
        *,
        statistics: Tensor | None = None,
        fresh: bool = False,
    ) -> Tensor:
        """What follows the norm, too: the sum with ``residual``, and an activation.

        following, statistics, fresh: for a container; the last two are ``statistics`` and ``rematerialize_residual`` of
        :func:`striate.ops.norm.by_channel`.
        """
        self._check_input_dim(input)
        if self.whole_batch is not None and self.training and not self.frozen:
            return self.whole_batch.forward(self, input, residual)
        measured = (self.training and not self.frozen) or self.running_mean is None
        momentum, mean, var = 0.0, self.running_mean, self.running_var
        if measured and mean is not None:
            if self.track_running_stats:
                momentum = self._step()
            else:
                mean = var = None
        try:
            return ops.by_channel(
                input,
                mean,
                var,
                self.weight,
                self.bias,
                measured,
                momentum,
                self.eps,
                batches=self._batches(input) if measured else 1,
                residual=residual,
                **self._told(following),
                statistics=statistics if measured else None,
                rematerialize_residual=fresh,
            )
        except REFUSALS:
            self._step_back(measured and mean is not None)
            raise

    def _step_back(self: Any, stepped: bool) -> None:
        """A batch that is refused was none."""
        if stepped and self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(1)

    def extra_repr(self: Any) -> str:
        return super().extra_repr() + (", frozen=True" if self.frozen else "")


BATCH_NORMS: tuple[Any, ...] = (_torch.BatchNormBase, _BatchNorm)  # torch's and all of ours


class _Summing(_BatchNorm):
    """A batch norm whose ``forward`` takes a residual, which those that are drop-ins do not."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            y = self._scripted(input)
            if residual is not None:
                y = y + residual
            return ops.activated(y, self.activation, self.negative_slope)
        else:
            summed = (input,) if residual is None else (input, residual)
            return self._compute(*summed) if isinstance(input, Tensor) else recorded(self, self._compute, *summed)


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    r"""Batch normalization of (N, C) or (N, C, L); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm1d(4)(torch.randn(8, 4)).shape
    torch.Size([8, 4])
    """

    _ranks, _shape = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    r"""Batch normalization of (N, C, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    μ and σ² are the batch's in training, the running ones in evaluation and when frozen (:meth:`freeze`).

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm2d(4)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    _ranks, _shape = (4,), "(N, C, H, W)"


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    r"""Batch normalization of (N, C, D, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    Source: Ioffe, Szegedy, *Batch normalization*, 2015.

    >>> BatchNorm3d(4)(torch.randn(8, 4, 2, 2, 2)).shape
    torch.Size([8, 4, 2, 2, 2])
    """

    _ranks, _shape = (5,), "(N, C, D, H, W)"


class _State(torch.nn.Module):
    """The state of torch's batch norm, under the same names, in a class that is none of torch's."""

    _version = 2  # of states: since the second they count batches

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = as_int(num_features), eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        factory = {"device": device, "dtype": dtype}
        for name, there in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, torch.nn.Parameter(torch.empty(num_features, **factory)) if there else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, **factory) if track_running_stats else None)
        counted = torch.tensor(0, dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counted)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        if self.track_running_stats:
            self.running_mean.zero_()  # type: ignore[operator]
            self.running_var.fill_(1)  # type: ignore[operator]
            self.num_batches_tracked.zero_()  # type: ignore[operator]

    def reset_parameters(self: Any) -> None:
        self.reset_running_stats()
        for parameter, draw in ((self.weight, torch.nn.init.ones_), (self.bias, torch.nn.init.zeros_)):
            if parameter is not None:
                draw(parameter)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        key = f"{prefix}num_batches_tracked"
        old = metadata.get("version", None)
        if (old is None or old < 2) and self.track_running_stats and key not in state:
            counted = self.num_batches_tracked
            state[key] = counted if counted is not None and not counted.is_meta else torch.tensor(0, dtype=torch.long)
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def extra_repr(self) -> str:
        told = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
        return f"{told}, track_running_stats={self.track_running_stats}"


class BatchNormAct2d(_Summing, _State):
    r"""Batch normalization, the sum with a residual if one is given, and an activation, in one pass forward and
    backward.

    .. math:: y = act(γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c + residual)

    For backward it keeps x and the statistics, and the residual if there is one; not what was activated. In a container
    a
    convolution behind it keeps nothing more: see ops/rematerialize.py.

    x, residual: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W). activation: None, "relu", "leaky_relu", "relu6" or
    "silu" (SiLU is a pass of its own); negative_slope: of the leaky ReLU. The rest as for :class:`BatchNorm2d`; the
    state is the same too.

    It is no subclass of torch's batch norms, whose functions for all of them would lose the activation:
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and ``torch.optim.swa_utils.update_bn`` leave it alone, and
    :meth:`SyncBatchNorm.convert_sync_batchnorm` of striate converts it.

    Raises ArgumentError for any other activation.

    >>> layer = BatchNormAct2d(4)
    >>> bool((layer(torch.randn(8, 4, 2, 2), residual=torch.ones(8, 4, 2, 2)) >= 0).all())
    True
    """

    _as_torch = as_torch(_torch.BatchNormBase.forward)

    def __init__(
        self,
        num_features: int,
        *args: Any,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        _set_activation(self, activation, negative_slope)


class GhostBatchNorm2d(_Summing, torch.nn.BatchNorm2d):
    r"""Batch normalization of sub-batches: each ``ghost_batch_size`` samples in turn are measured by themselves.

    .. math:: y = γ_c·(x - μ_{bc})/\sqrt{σ²_{bc} + ε} + β_c

    A large batch then learns with the noise of a small one. The running statistics take one step towards the mean over
    the sub-batches. Evaluation is :class:`BatchNorm2d`'s. x: as for :class:`BatchNormAct2d`; N is a multiple of
    ``ghost_batch_size``, or smaller.

    Raises ArgumentError for a size below 1, ShapeError where it does not divide the batch.

    Source: Hoffer, Hubara, Soudry, *Train longer, generalize better*, 2017.

    >>> layer = GhostBatchNorm2d(4, ghost_batch_size=2)
    >>> x = torch.randn(8, 4, 2, 2)
    >>> torch.allclose(layer(x)[2:4], BatchNorm2d(4)(x[2:4]), atol=1e-6)
    True
    """

    def __init__(self, num_features: int, ghost_batch_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.ghost_batch_size = as_int(ghost_batch_size)
        if not is_int(self.ghost_batch_size) or self.ghost_batch_size < 1:
            where = type(self).__name__
            raise ArgumentError(
                build(where, "a ghost_batch_size of at least 1", repr(ghost_batch_size), hint="Choose 16 or 32.")
            )

    def _compute(
        self: Any, input: Tensor, residual: Tensor | None = None, following: Any = None, **given: Any
    ) -> Tensor:
        if _torch.is_recorded():  # a trace is for batches of any size: it counts no sub-batches
            y = self._scripted(input)
            return ops.activated(y if residual is None else y + residual, self.activation, self.negative_slope)
        return super()._compute(input, residual, following, **given)

    def _scripted(self, input: Tensor) -> Tensor:
        """By torch's operators, for a batch of any size."""
        size, mean, var = self.ghost_batch_size, self.running_mean, self.running_var
        if self.frozen or not self.training:
            measured = mean is None or (self.training and not self.frozen)
            return F.batch_norm(input, mean, var, self.weight, self.bias, measured, 0.0, self.eps)
        size = min(size, input.shape[0])
        parts = input.unflatten(0, [-1, size])
        now_var, now = torch.var_mean(parts, [1] + list(range(3, parts.dim())), correction=0, keepdim=True)  # noqa: RUF005  TorchScript
        batches = self.num_batches_tracked
        if mean is not None and var is not None and self.track_running_stats:
            momentum = self.momentum
            if batches is not None:
                batches.add_(1)
                if momentum is None:
                    momentum = 1.0 / float(batches)
            places = input[:size].numel() // input.shape[1]
            step = 0.0 if momentum is None else momentum
            with torch.no_grad():
                mean.lerp_(now.mean(0).flatten(), step)
                var.lerp_(now_var.mean(0).flatten() * (places / (places - 1)), step)
        shape = [-1] + [1] * (input.dim() - 2)
        y = ((parts - now) * torch.rsqrt(now_var + self.eps)).flatten(0, 1)
        if self.weight is not None:
            y = y * self.weight.reshape(shape)
        if self.bias is not None:
            y = y + self.bias.reshape(shape)
        return y

    def _batches(self, input: Tensor) -> int:
        if not isinstance(input, Tensor):
            return 1
        samples, size = input.shape[0], self.ghost_batch_size
        if samples > size and samples % size != 0:
            expects = f"a batch that ghost_batch_size, {size}, divides"
            hint = "Drop the last incomplete batch or choose another size."
            raise ShapeError(build(type(self).__name__, expects, samples, hint=hint, x=tuple(input.shape)))
        return max(1, samples // size)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"


class NoisyBatchNorm2d(_Summing, torch.nn.BatchNorm2d):
    r"""Batch normalization that is made useless on purpose: random shift and scale after it, of another distribution
    each step.

    .. math::
        z_{nc} = s_{nc}·y_{nc} + m_{nc}, \quad m_{nc} ∼ U(μ_c ± r_μ), \; s_{nc} ∼ N(σ_c, r_σ), \quad
        μ_c ∼ U(±n_μ), \; σ_c ∼ U(1, n_σ)

    Each step draws μ and σ for every channel, and from them a shift and a scale for every sample. What follows the
    layer sees inputs whose distribution shifts more than without any normalization; that training still goes well with
    it says that the shift is not what batch norm cures. Evaluation, and frozen, is :class:`BatchNorm2d`'s. The noise
    comes from a generator of the layer's own: the same ``seed`` gives the same noise, and forward leaves torch's global
    numbers alone. Without a seed the constructor draws one from them.

    mean_noise, scale_noise: n_μ and n_σ; mean_spread, scale_spread: r_μ and r_σ; the defaults are the paper's.

    Source: Santurkar, Tsipras, Ilyas, Mądry, *How does batch normalization help optimization?*, 2018, appendix A.

    >>> NoisyBatchNorm2d(4, seed=1)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    def __init__(
        self,
        num_features: int,
        *args: Any,
        mean_noise: float = 0.5,
        scale_noise: float = 1.25,
        mean_spread: float = 0.1,
        scale_spread: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.mean_noise, self.scale_noise, self.mean_spread, self.scale_spread = (
            mean_noise,
            scale_noise,
            mean_spread,
            scale_spread,
        )
        self.reseed(int(torch.randint(2**31, (), device="cpu")) if seed is None else seed)

    def reseed(self, seed: int) -> None:
        """Begins the noise anew."""
        self.seed, self.step = seed, 0

    def _scripted(self, input: Tensor) -> Tensor:
        if self.training and not self.frozen:
            raise RuntimeError(
                "NoisyBatchNorm2d expects evaluation mode in TorchScript, got training. Its noise is drawn by Python: "
                "call .eval() first."
            )
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.running_mean is None, 0.0, self.eps
        )

    def _compute(self, input: Tensor, residual: Tensor | None = None, following: Any = None, **shared: Any) -> Tensor:
        y = super()._compute(input, residual, following, **shared)
        if not self.training or self.frozen:
            return y
        # the CPU's generator takes 32 bits of a seed
        mixed = hashlib.blake2b(f"{self.seed} {self.step}".encode(), digest_size=4)
        chance: Any = {
            "generator": torch.Generator("cpu").manual_seed(int.from_bytes(mixed.digest(), "little")),
            "device": "cpu",
        }
        self.step += 1
        channels, shape = input.shape[1], input.shape[:2]
        center = (2 * torch.rand(channels, **chance) - 1) * self.mean_noise
        width = 1 + torch.rand(channels, **chance) * (self.scale_noise - 1)
        shift = center + (2 * torch.rand(shape, **chance) - 1) * self.mean_spread
        scale = width + torch.randn(shape, **chance) * self.scale_spread
        shift, scale = (t.to(y).reshape(*shape, *[1] * (y.dim() - 2)) for t in (shift, scale))
        return torch.addcmul(shift, y, scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, seed={self.seed}"


class SyncBatchNorm(_Summing, _torch.BatchNormBase):
    r"""Batch normalization of the batch of all processes of ``torch.distributed``, on the CPU too (backend gloo).

    .. math:: n = Σ n_r, \quad μ, σ² \text{ merged from all ranks' moments}, \quad y = γ_c·(x - μ_c)/\sqrt{σ²_c + ε} + β_c

    Arguments and state as in ``torch.nn``, whose own does not run on the CPU; not a subclass of it, because
    ``DistributedDataParallel`` refuses those there. Equal to one process that has the whole batch: backward divides by
    the whole count, and the running variance is unbiased with it. Ranks may have batches of different size, also none.
    In evaluation, frozen, without ``torch.distributed``, with one process or outside the group it is
    :class:`BatchNorm2d`. Each forward gathers 2C + 1 doubles from each rank, each backward 2C.

    x: as for :class:`BatchNormAct2d`. Raises ShapeError where all ranks together have one value per channel,
    ArgumentError where no kernel takes x.

    Source: Chan, Golub, LeVeque, 1979 (merging); Ioffe, Szegedy, 2015.

    >>> SyncBatchNorm(4)(torch.randn(8, 4, 2, 2)).shape
    torch.Size([8, 4, 2, 2])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.process_group = process_group

    def _compute(self, input: Tensor, residual: Tensor | None = None, following: Any = None, **shared: Any) -> Tensor:
        alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size(self.process_group) <= 1
        if alone or not self.training or self.frozen:
            return super()._compute(input, residual, following, **shared)
        self._check_input_dim(input)
        mean, var = (self.running_mean, self.running_var) if self.track_running_stats else (None, None)
        momentum = 0.0 if mean is None else self._step()
        try:
            return synchronized_batch_norm(
                input,
                mean,
                var,
                self.weight,
                self.bias,
                momentum,
                self.eps,
                self.process_group,
                residual=residual,
                **self._told(following),
            )
        except REFUSALS:
            self._step_back(mean is not None)
            raise

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """``module`` with every batch norm in it, torch's and striate's, made a SyncBatchNorm with the same parameters
        and state.

        >>> type(SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))[0]).__name__
        'SyncBatchNorm'
        """
        made: dict[Any, Any] = {}  # a layer under two names stays one

        def converted(layer: Any) -> Any:
            if layer not in made:
                made[layer] = _synchronized(cls, layer, process_group)
            return made[layer]

        if isinstance(module, BATCH_NORMS):
            return converted(module)
        for parent in list(module.modules()):
            for name, child in parent._modules.items():
                if isinstance(child, BATCH_NORMS):
                    parent._modules[name] = converted(child)
        return module


def _synchronized(kind: Any, layer: Any, process_group: Any) -> Any:
    made = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, process_group)
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "training"):
        setattr(made, name, getattr(layer, name))
    made.frozen = getattr(layer, "frozen", False)
    made.activation, made.negative_slope = getattr(layer, "activation", None), getattr(layer, "negative_slope", 0.01)
    return made


class _InstanceNorm(_Activated):
    # whether the output is channels_last where the input is, which torch's never is: by accelerate, on an instance
    _channels_last = False

    def _normalize(self: Any, input: Tensor, following: tuple[str, float] | None) -> Tensor:
        measured = self.training or not self.track_running_stats
        return ops.instance(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            measured,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
            any_order=self._channels_last,
            **self._told(following),
        )

    def _compute(self: Any, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        dims = self._get_no_batch_dim()
        axes = ", ".join("DHW"[4 - dims :]) if dims > 2 else "L"
        _dimensions(input, (dims, dims + 1), type(self).__name__, f"(N, C, {axes}) or (C, {axes})")
        if (
            isinstance(input, Tensor)
            and input.shape[-dims] != self.num_features
            and (self.affine or self.track_running_stats)
        ):
            expects = f"{self.num_features} channels"
            hint = f"Set num_features={input.shape[-dims]}, or look at what comes before."
            raise ShapeError(build(type(self).__name__, expects, input.shape[-dims], hint=hint, x=tuple(input.shape)))
        if isinstance(input, Tensor) and input.dim() == dims:
            return self._normalize(input.unsqueeze(0), following).squeeze(0)
        return self._normalize(input, following)


class InstanceNorm1d(_InstanceNorm, torch.nn.InstanceNorm1d):
    r"""Instance normalization of (N, C, L) or (C, L); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm1d(4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """


class InstanceNorm2d(_InstanceNorm, torch.nn.InstanceNorm2d):
    r"""Instance normalization of (N, C, H, W) or (C, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm2d(4)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """


class InstanceNorm3d(_InstanceNorm, torch.nn.InstanceNorm3d):
    r"""Instance normalization of (N, C, D, H, W) or (C, D, H, W); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{nc})/\sqrt{σ²_{nc} + ε} + β_c

    Source: Ulyanov, Vedaldi, Lempitsky, *Instance normalization*, 2016.

    >>> InstanceNorm3d(4)(torch.randn(2, 4, 8, 8, 8)).shape
    torch.Size([2, 4, 8, 8, 8])
    """


class LayerNorm(_Activated, torch.nn.LayerNorm):
    r"""Layer normalization over the last axes; arguments and state as in ``torch.nn``.

    .. math:: y = γ·(x - μ_n)/\sqrt{σ²_n + ε} + β

    Source: Ba, Kiros, Hinton, *Layer normalization*, 2016.

    >>> LayerNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def _compute(self, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        return ops.by_element(input, self.normalized_shape, self.weight, self.bias, self.eps, **self._told(following))


class LayerNorm2d(_Activated, torch.nn.Module):
    r"""Layer normalization of all channels at each place by itself: (N, C, H, W), or any number of axes.

    .. math:: y = γ_c·(x - μ_{nhw})/\sqrt{σ²_{nhw} + ε} + β_c

    num_channels: C; elementwise_affine: whether γ and β are there, of shape (C,); bias: whether β is.

    Raises ArgumentError for fewer than one channel, ShapeError for another number of channels.

    Source: Liu et al., *A ConvNet for the 2020s*, 2022.

    >>> LayerNorm2d(4)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        given, num_channels = num_channels, as_int(num_channels)
        if not is_int(num_channels) or num_channels < 1:
            hint = "It is the size of x's second axis."
            raise ArgumentError(build("LayerNorm2d", "num_channels of at least 1", repr(given), hint=hint))
        self.num_channels, self.eps, self.elementwise_affine = num_channels, eps, elementwise_affine
        factory = {"device": device, "dtype": dtype}
        self.weight = torch.nn.Parameter(torch.ones(num_channels, **factory)) if elementwise_affine else None
        self.bias = torch.nn.Parameter(torch.zeros(num_channels, **factory)) if elementwise_affine and bias else None

    def _as_torch(self, input: Tensor) -> Tensor:
        return F.layer_norm(input.movedim(1, -1), (self.num_channels,), self.weight, self.bias, self.eps).movedim(-1, 1)

    def _compute(self, input: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        if isinstance(input, Tensor) and input.dim() > 1 and input.shape[1] != self.num_channels:
            hint = f"Set num_channels={input.shape[1]}, or look at what comes before."
            raise ShapeError(
                build("LayerNorm2d", f"{self.num_channels} channels", input.shape[1], hint=hint, x=tuple(input.shape))
            )
        return ops.layer_norm_2d(input, self.weight, self.bias, self.eps, **self._told(following))

    def extra_repr(self) -> str:
        return (
            f"{self.num_channels}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
            + _Activated.extra_repr(self)
        )


class GroupNorm(_Activated, torch.nn.GroupNorm):
    r"""Group normalization of (N, C, *); arguments and state as in ``torch.nn``.

    .. math:: y = γ_c·(x - μ_{ng})/\sqrt{σ²_{ng} + ε} + β_c

    Source: Wu, He, *Group normalization*, 2018.

    >>> GroupNorm(2, 4)(torch.randn(2, 4, 8)).shape
    torch.Size([2, 4, 8])
    """

    def _compute(
        self, input: Tensor, residual: Tensor | None = None, following: tuple[str, float] | None = None
    ) -> Tensor:
        more = {"residual": residual, **self._told(following)}
        return ops.by_group(input, self.num_groups, self.weight, self.bias, self.eps, **more)


class GroupNormAct2d(_Activated, torch.nn.Module):
    r"""Group normalization, the sum with a residual if one is given, and an activation, in one pass forward and
    backward.

    .. math:: y = act(γ_c·(x - μ_{ng})/\sqrt{σ²_{ng} + ε} + β_c + residual)

    x, residual: (N, C, *). activation and negative_slope: as for :class:`BatchNormAct2d`; the rest, and the state, as
    for
    :class:`GroupNorm`.

    Raises ArgumentError for any other activation.

    >>> bool((GroupNormAct2d(2, 4)(torch.randn(2, 4, 8, 8)) >= 0).all())
    True
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *args: Any,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        like = GroupNorm(as_int(num_groups), as_int(num_channels), *args, **kwargs)
        self.num_groups, self.num_channels, self.eps, self.affine = (
            like.num_groups,
            like.num_channels,
            like.eps,
            like.affine,
        )
        self.weight, self.bias = like.weight, like.bias
        _set_activation(self, activation, negative_slope)

    _as_torch = as_torch(torch.nn.GroupNorm.forward)
    _compute: Any = GroupNorm._compute

    def extra_repr(self) -> str:
        like: Any = torch.nn.GroupNorm
        return str(like.extra_repr(self)) + _Activated.extra_repr(self)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            y = self._as_torch(input)
            if residual is not None:
                y = y + residual
            return ops.activated(y, self.activation, self.negative_slope)
        else:
            summed = (input,) if residual is None else (input, residual)
            return self._compute(*summed) if isinstance(input, Tensor) else recorded(self, self._compute, *summed)


GROUP_NORMS: tuple[Any, ...] = (torch.nn.GroupNorm, GroupNormAct2d)  # likewise


class RMSNorm(_Activated, torch.nn.RMSNorm):
    r"""Root-mean-square normalization over the last axes; arguments and state as in ``torch.nn``.

    .. math:: y = γ·x/\sqrt{mean(x²) + ε}

    Source: Zhang, Sennrich, *Root mean square layer normalization*, 2019.

    >>> RMSNorm(4)(torch.randn(2, 4)).shape
    torch.Size([2, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return ops.activated(self._as_torch(x), self.activation, self.negative_slope)
        else:
            return self._compute(x) if isinstance(x, Tensor) else recorded(self, self._compute, x)

    def _compute(self, x: Tensor, following: tuple[str, float] | None = None) -> Tensor:
        return ops.by_element(
            x, self.normalized_shape, self.weight, None, self.eps, centered=False, **self._told(following)
        )


class LocalResponseNorm(Namesake, torch.nn.LocalResponseNorm):
    r"""Normalization over neighbouring channels; arguments as in ``torch.nn``.

    .. math:: y_c = x_c / (k + \frac{α}{size} Σ_{j} x_j²)^β, \quad j = c - ⌊size/2⌋ … c + ⌊(size - 1)/2⌋

    Source: Krizhevsky, Sutskever, Hinton, *ImageNet classification with deep convolutional neural networks*, 2012.

    >>> LocalResponseNorm(3)(torch.randn(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def _compute(self, input: Tensor) -> Tensor:
        return local_response.response(input, self.size, self.alpha, self.beta, self.k, where=type(self).__name__)


def adaptive_instance_norm(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    r"""The content normalized per sample and channel, then given the style's mean and deviation.

    .. math:: y = σ(s)·(c - μ(c))/\sqrt{σ²(c) + ε} + μ(s), \quad σ(s) = \sqrt{σ²(s) + ε}

    content: (N, C, *axes); style: (N, C, *other axes). Result: content's shape.

    Raises ShapeError where samples or channels differ.

    Source: Huang, Belongie, *Arbitrary style transfer in real-time with adaptive instance normalization*, 2017.

    >>> c, s = torch.randn(1, 2, 8, 8), 3 + 2 * torch.randn(1, 2, 5, 5)
    >>> torch.allclose(adaptive_instance_norm(c, s).mean((2, 3)), s.mean((2, 3)), atol=1e-5)
    True
    """
    for name, x in (("content", content), ("style", style)):
        ops.check_input(x, "AdaIN", 3, "(N, C, *axes)", name=name)
    eps = ops.check_eps(eps, "AdaIN")
    if style.numel() == 0:
        raise ShapeError(
            build("AdaIN", "a style of at least one value per channel", tuple(style.shape), hint="Give an image.")
        )
    if content.shape[:2] != style.shape[:2]:
        expects, hint = (
            f"a style of {content.shape[0]} samples and {content.shape[1]} channels",
            "Expand the style to the content's batch.",
        )
        raise ShapeError(build("AdaIN", expects, tuple(style.shape[:2]), hint=hint, content=tuple(content.shape)))
    var, mean = torch.var_mean(style.flatten(2), 2, correction=0)
    deviation, mean = (
        (v.to(content.dtype)).reshape(*content.shape[:2], *[1] * (content.dim() - 2))
        for v in ((var + eps).sqrt(), mean)
    )
    return torch.addcmul(
        mean, ops.instance(content, None, None, None, None, True, 0.0, eps, where="AdaIN", any_order=True), deviation
    )


class AdaIN(torch.nn.Module):
    """Adaptive instance normalization, :func:`adaptive_instance_norm`, as a layer without parameters.

    >>> AdaIN()(torch.randn(1, 2, 8, 8), torch.randn(1, 2, 5, 5)).shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._as_torch(content, style)
        else:
            return (
                self._compute(content, style)
                if isinstance(content, Tensor)
                else recorded(self, self._compute, content, style)
            )

    def _as_torch(self, content: Tensor, style: Tensor) -> Tensor:
        var, mean = torch.var_mean(style.flatten(2), 2, correction=0)
        shape = list(content.shape[:2]) + [1] * (content.dim() - 2)
        normalized = F.instance_norm(content, eps=self.eps)
        return torch.addcmul(mean.reshape(shape), normalized, (var + self.eps).sqrt().reshape(shape))

    def _compute(self, content: Tensor, style: Tensor) -> Tensor:
        return adaptive_instance_norm(content, style, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
