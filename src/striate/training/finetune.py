"""Fine-tuning: loads weights of another training, freezes the first layers, and gives a model a new head."""

from __future__ import annotations

import os
import pickle
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from .. import nn
from .._torch import ConvBase
from ..errors import ArgumentError, ArgumentTypeError, CheckpointError, ShapeError, build, did_you_mean
from ..models.places import Places
from ..nn.norm import BATCH_NORMS
from ..tensorfile import SUFFIX, Damaged, read
from .state import Snapshot

__all__ = ["Loaded", "fit_head", "freeze_until", "head_of", "load_weights", "new_head"]

FEW = 5  # names that a message lists
WRAPPERS = ("state_dict", "model_state_dict", "model")  # entries of a checkpoint that hold the weights
PREFIX = "module."  # of the names that a DataParallel model gives


class Loaded(NamedTuple):
    """What :func:`load_weights` did.

    loaded: the names of the tensors that the model has from the file; new_head: those of the last layer, whose number
    of classes is another, which stay as they were; missing: other names of the model that the file lacks; unexpected:
    names in the file that the model lacks; misshapen: names of both, with other shapes. The last three are empty unless
    ``strict=False``.
    """

    loaded: tuple[str, ...]
    new_head: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence for each fact.

        >>> print(Loaded(("0.weight",), ("3.weight", "3.bias"), (), ()))
        Loaded 1 of 3 tensors. The head is new: 3.weight, 3.bias.
        """
        count = len(self.loaded)
        others = len(self.new_head) + len(self.missing) + len(self.misshapen)
        of = f" of {count + others}" if others else ""
        text = f"Loaded {count}{of} tensor{'s' * (count + others != 1)}."
        for names, what in (
            (self.new_head, "The head is new"),
            (self.missing, "Not in the file"),
            (self.misshapen, "Of another shape in the file"),
            (self.unexpected, "Not in the model"),
        ):
            text += f" {what}: {_few(names)}." if names else ""
        return text


def load_weights(model: Module, path: str | os.PathLike[str], *, strict: bool = True) -> Loaded:
    """Fills a model with weights from a file: safetensors, of striate (whose digests are compared) or any other
    program, or a checkpoint of torch, such as torchvision's, of which nothing but tensors is unpickled. Of a checkpoint
    of a run, in its folder ``checkpoints``, the weights are taken.

    A checkpoint that holds the weights in an entry ``state_dict``, ``model_state_dict`` or ``model``, or under names
    that begin with ``module.``, is accepted. Numbers are converted between floating-point types. A last layer (see
    :func:`head_of`) that differs in the number of classes alone is left as it is. Counts of batches, which old
    checkpoints lack, may be missing. The modes of the model do not change, nor which parameters need gradients.

    strict: whether every other name and shape must fit; else what fits is loaded.

    Raises CheckpointError, and leaves the model unchanged, if the file cannot be read, names or shapes do not fit, or a
    tensor is not finite.

    >>> import tempfile
    >>> from striate.training import save
    >>> folder = tempfile.TemporaryDirectory()
    >>> save(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10)), folder.name + "/ten.safetensors")
    >>> print(load_weights(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), folder.name + "/ten.safetensors"))
    Loaded 2 of 4 tensors. The head is new: 1.weight, 1.bias.
    """
    path = Path(path)
    found = _tensors_of(path)
    state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    if not found.keys() & state.keys():
        common = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
        found = common if len(common) == len(found) else found
    head = _head_names(model, found, state)
    loaded = [name for name in state if name in found and name not in head]
    missing = [n for n in state if n not in found and not n.endswith("num_batches_tracked")]
    temporary = dict(model.named_buffers()).keys() - state.keys()  # which a state_dict leaves out, a checkpoint not
    unexpected = [n for n in found if n not in state and n not in temporary]
    misshapen = [n for n in loaded if found[n].shape != state[n].shape]
    if not loaded or len(misshapen) == len(loaded) or (strict and (missing or unexpected or misshapen)):
        raise _misfit(path, found, state, missing, unexpected, misshapen)
    loaded = [name for name in loaded if name not in misshapen]
    for name in loaded:
        theirs, own = found[name], state[name]
        if theirs.dtype != own.dtype and not (theirs.is_floating_point() and own.is_floating_point()):
            raise _refused(path, f"{name} of {own.dtype}", f"{theirs.dtype}", "Give the weights of this model.")
        if theirs.is_floating_point() and not bool(theirs.isfinite().all()):
            hint = "Give a file of an earlier moment."
            raise _refused(path, "finite weights", f"NaN or infinity in {name}", hint)
    with torch.no_grad():
        for name in loaded:
            state[name].copy_(found[name])
    return Loaded(tuple(loaded), tuple(head), tuple(missing), tuple(unexpected), tuple(misshapen))


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise _refused(path, "a file of weights", "something that is not a file", "Give a file.")
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise _refused(path, "a file of weights", error.strerror or str(error), "Look at the path.") from None
    if path.suffix == SUFFIX:
        return _safetensors(path)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # torch's archive, or the bare pickle before it
        return _torchs(path, about.st_size, archive=start[:2] == b"PK")
    hint = f"Give a {SUFFIX} file or a .pth file of torch.save."
    raise _refused(path, "a file of weights", f"one that begins with {start[:4]!r}", hint)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            of_striate = "striate" in (file.metadata() or {})
        if not of_striate:
            return load_file(path)
        tensors, metadata = read(path)
        return Snapshot(tensors, metadata["facts"]).weights() if "facts" in metadata else tensors
    except (SafetensorError, Damaged, OSError, ValueError) as error:
        why = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise _refused(path, "a sound safetensors file", why, "Copy the file afresh.") from None


def _torchs(path: Path, file_bytes: int, archive: bool) -> dict[str, Tensor]:
    fix = "Copy the file afresh, or save the weights alone: torch.save(model.state_dict(), path)."
    try:
        if archive:
            with zipfile.ZipFile(path) as entries:
                if any(e.compress_type != zipfile.ZIP_STORED or e.file_size > file_bytes for e in entries.infolist()):
                    raise _refused(path, "a checkpoint of torch", "an archive that torch did not write", fix)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle raises
        names = re.search(r"GLOBAL (\S+) was not an allowed", str(error))
        if names:
            why = f"a pickle that uses {names[1]}"
        elif isinstance(error, pickle.UnpicklingError):
            why = "a pickle of something else, or a damaged one"
        else:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
        raise _refused(path, "a checkpoint of torch with nothing but tensors", why, fix) from None
    for wrapper in WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
            break
    plain = isinstance(held, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        for key, value in held.items()
    )
    if not plain or not held:
        got = f"a {type(held).__name__}" if not isinstance(held, Mapping) or not held else "one with other values"
        raise _refused(path, "a checkpoint of torch with tensors by name", got, fix)
    return dict(held)


def _head_names(model: Module, found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """The tensors of the last layer, where the file has as many inputs of it and another number of classes."""
    path = head_of(model)
    prefix = f"{path}." if path else ""
    names = [name for name in (f"{prefix}weight", f"{prefix}bias") if name in state]
    same = [n for n in names if n in found and found[n].shape[1:] == state[n].shape[1:]]
    classes = {tuple(found[n].shape[:1]) for n in same}
    other = bool(names) and len(classes) == 1 and classes != {tuple(state[names[0]].shape[:1])}
    return names if other and f"{prefix}weight" in same else []


def _misfit(
    path: Path,
    found: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
) -> CheckpointError:
    parts = [f"no {_few(missing)}"] if missing else []
    parts += [f"unexpected {_few(unexpected)}"] if unexpected else []
    if misshapen:
        name = misshapen[0]
        more = f" and {len(misshapen) - 1} more of other shapes" if len(misshapen) > 1 else ""
        parts.append(f"{name} of shape {tuple(found[name].shape)} where the model has {tuple(state[name].shape)}{more}")
    hint = "Make the model that the file is of, or load what fits with --weights-partial (strict=False)."
    return _refused(path, "weights of this model", "; ".join(parts), hint)


def _refused(path: Path, expects: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(build("load_weights", expects, got, path=path, hint=hint))


def _few(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def head_of(model: Module) -> str:
    """The name of a model's head: its last linear layer or convolution in the order of ``state_dict``.

    Raises ArgumentError for a model without one.

    >>> head_of(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(72, 10), nn.Softmax(1)))
    '2'
    """
    names = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, ConvBase))]
    if not names:
        hint = "Give a model with linear layers or convolutions."
        raise ArgumentError(build("head_of", "a model with a last layer", type(model).__name__, hint=hint))
    return names[-1]


def new_head(model: Module, classes: int) -> str:
    """Puts a new layer for another number of classes in place of a model's head; returns its name.

    Its weights are drawn as a new layer's are, by torch's random generator; inputs, bias, element type and device stay.
    A head for so many classes already is left as it is.

    Raises ArgumentError for fewer than two classes, and a head that is neither a linear layer nor a convolution without
    groups.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))
    >>> new_head(model, 2), model[2].out_features
    ('2', 2)
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        hint = "Use a whole number from 2 on."
        raise ArgumentError(build("new_head", "at least 2 classes", repr(classes), hint=hint))
    path = head_of(model)
    layer: Any = model.get_submodule(path)
    weight = layer.weight
    factory: Any = {"bias": layer.bias is not None, "device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, torch.nn.Linear):
        if layer.out_features == classes:
            return path
        made: Module = nn.Linear(layer.in_features, classes, **factory)
    elif isinstance(layer, torch.nn.Conv2d) and layer.groups == 1 and path:
        if layer.out_channels == classes:
            return path
        window: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        factory |= {"padding_mode": layer.padding_mode}
        made = nn.Conv2d(layer.in_channels, classes, *window, **factory)
    else:
        hint = "Give the model the number of classes when it is made."
        raise ArgumentError(build("new_head", "a linear layer or a convolution as head", f"{path}: {layer}", hint=hint))
    if not path:
        hint = "Put it into a Sequential."
        raise ArgumentError(build("new_head", "a model that holds its head", type(model).__name__, hint=hint))
    model.set_submodule(path, made.train(layer.training))
    return path


def fit_head(model: Module, sample_shape: tuple[int, ...], classes: int) -> tuple[str, int] | None:
    """Puts a new head into a model that gives another number of scores than there are classes, see :func:`new_head`.

    sample_shape: of an image, ``(C, H, W)``. Returns the name of the head, and the scores that the model gave before.
    None, and the model stays as it is, where it fits already, does not run on such images, or where its scores do not
    come from its last layer.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))
    >>> fit_head(model, (1, 2, 2), 3), model[1].out_features, fit_head(model, (1, 2, 2), 3)
    (('1', 10), 3, None)
    """
    given = _scores(model, sample_shape)
    if given is None or given == classes:
        return None
    try:
        path = head_of(model)
        old = model.get_submodule(path)
        new_head(model, classes)
    except ArgumentError:
        return None
    if _scores(model, sample_shape) != classes:
        model.set_submodule(path, old)
        return None
    return path, given


def _scores(model: Module, sample_shape: tuple[int, ...]) -> int | None:
    """How many scores a model gives for an image; None if it gives something else, or does not run."""
    try:
        shape = Places(model, sample_shape).output_shape()
    except (ArgumentError, ArgumentTypeError, ShapeError, IndexError):
        return None
    return shape[1] if len(shape) == 2 else None


def freeze_until(model: Module, layer: str) -> tuple[str, ...]:
    """Freezes everything before a layer, in the order of ``state_dict``; returns the names of the frozen parameters.

    These get no gradient, and batch norms normalize with their running statistics and leave them alone, in training
    too, whatever ``train()`` is called with.

    layer: the name of the first module that learns, as ``layer4`` or ``classifier``; ``named_modules()`` lists all.

    Raises ArgumentError, and leaves the model unchanged, for another name, and for a batch norm of torch's before it,
    which cannot be frozen.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    >>> freeze_until(model, "3"), model[1].frozen
    (('0.weight', '0.bias', '1.weight', '1.bias'), True)
    """
    order = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if layer not in order:
        top = [name for name, _ in model.named_children()]
        hint = f"Name one of its layers, as they are in named_modules().{did_you_mean(str(layer), order)}"
        expects = f"one of {', '.join(top)}, or a layer in them"
        raise ArgumentError(build("freeze_until", expects, repr(layer), hint=hint))
    around = {layer[:at] for at, letter in enumerate(layer) if letter == "."} | {""}
    before = [name for name in order[: order.index(layer)] if name not in around]
    norms = [(n, m) for n in before if isinstance(m := model.get_submodule(n), BATCH_NORMS)]
    for name, norm in norms:
        if not hasattr(norm, "freeze"):
            hint = "Call striate.accelerate(model) first."
            raise ArgumentError(build("freeze_until", "batch norms of striate's", f"torch's at {name}", hint=hint))
    for _, norm in norms:
        if norm.running_mean is not None:
            norm.freeze()
    frozen = []
    for name in before:
        for key, parameter in model.get_submodule(name).named_parameters(recurse=False):
            parameter.requires_grad_(False)
            frozen.append(f"{name}.{key}")
    return tuple(frozen)
