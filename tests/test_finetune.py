"""Weights are loaded whole or not at all, layers before a name are frozen, heads are renewed."""

from __future__ import annotations

import copy
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from striate import accelerate, models, nn
from striate.errors import ArgumentError, CheckpointError
from striate.models.resnet import BasicBlock
from striate.training import checkpoint
from striate.training.finetune import Loaded, fit_head, freeze_until, head_of, load_weights, new_head

GOLDEN = Path(__file__).parent / "golden"
TORCHVISIONS = ["alexnet", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v2", "convnext_tiny"]


def small(classes: int = 10, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    block = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(block, nn.Flatten(), nn.Linear(144, classes))


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


def written(folder: Path, kind: str, state: dict[str, torch.Tensor]) -> Path:
    """The state in a file of that kind."""
    if kind == "striate":
        path, holder = folder / "run.safetensors", torch.nn.Module()
        for name, x in state.items():
            place: Any = holder
            for part in name.split(".")[:-1]:
                if part not in dict(place.named_children()):
                    place.add_module(part, torch.nn.Module())
                place = place.get_submodule(part)
            place.register_buffer(name.split(".")[-1], x)
        checkpoint.save(holder, path, epoch=3)
        return path
    if kind == "safetensors":
        save_file(state, folder / "plain.safetensors")
        return folder / "plain.safetensors"
    held: Any = state
    held = {"state_dict": state, "epoch": 3} if kind == "nested" else held
    held = {f"module.{name}": x for name, x in state.items()} if kind == "parallel" else held
    torch.save(held, folder / "weights.pth", _use_new_zipfile_serialization=kind != "legacy")
    return folder / "weights.pth"


KINDS = ["striate", "safetensors", "torch", "legacy", "nested", "parallel"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_load_bit_for_bit_from_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    source, model = small(seed=1), small(seed=2).eval()
    path = written(tmp_path, kind, state_of(source))
    report = load_weights(model, path)
    assert same(state_of(model), state_of(source)) and not model.training
    assert report == Loaded(tuple(source.state_dict()), (), (), ())
    assert str(report) == "Loaded 8 tensors."


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_another_number_of_classes_is_left_new(kind: str, tmp_path: Path) -> None:
    source, model = small(10, seed=1), small(3, seed=2)
    head = (model[2].weight.clone(), model[2].bias.clone())
    report = load_weights(model, written(tmp_path, kind, state_of(source)))
    assert report.new_head == ("2.weight", "2.bias") and len(report.loaded) == 6
    assert str(report) == "Loaded 6 of 8 tensors. The head is new: 2.weight, 2.bias."
    assert torch.equal(model[2].weight, head[0]) and torch.equal(model[2].bias, head[1])
    assert torch.equal(model[0][0].weight, source[0][0].weight)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.nightly] * (n == "vgg11_bn")) for n in TORCHVISIONS]
)
def test_a_state_with_torchvisions_names_and_shapes_loads(name: str, tmp_path: Path) -> None:
    """The lists are those of torchvision's models, of 1000 classes; here with as few numbers as a file of expanded
    tensors has.
    """
    rows = [line.partition(" ") for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]
    shapes = {key: tuple(int(n) for n in shape.strip("(),").split(",") if n.strip()) for key, _, shape in rows}
    state = {
        key: torch.tensor(3) if key.endswith("num_batches_tracked") else torch.full((1,), 0.5).expand(shape)
        for key, shape in shapes.items()
    }
    torch.save(state, tmp_path / "torchvision.pth")
    assert (tmp_path / "torchvision.pth").stat().st_size < 1e6
    if name in ("alexnet", "vgg11_bn"):  # of 0.5 GB: their names and shapes are compared without values
        with torch.device("meta"):
            model = models.by_name(name)(classes=7)
        report = load_weights(model, tmp_path / "torchvision.pth")
    else:
        model = models.by_name(name)(classes=7)
        report = load_weights(model, tmp_path / "torchvision.pth")
        loaded = [x for key, x in model.state_dict().items() if key in report.loaded]
        assert all(bool((x == (3 if x.ndim == 0 else 0.5)).all()) for x in loaded)
    assert report.missing == report.unexpected == ()
    assert set(report.loaded) | set(report.new_head) == set(shapes) and len(report.new_head) == 2


def test_a_variant_takes_weights_of_the_layers_that_stay(tmp_path: Path) -> None:
    plain = models.classifier("lenet5", 1, (8, 8), 4)
    path = written(tmp_path, "torch", state_of(plain))
    made = models.classifier("lenet5", 1, (8, 8), 4, norm="batch")
    report = load_weights(made, path, strict=False)
    assert set(report.loaded) == set(plain.state_dict()) and {n.split(".")[0] for n in report.missing} == {
        "norm_0",
        "norm_3",
        "norm_7",
    }
    assert str(report).startswith("Loaded 8 of 20 tensors. Not in the file: norm_0.weight, norm_0.bias, ")
    with pytest.raises(CheckpointError):
        load_weights(made, path)


def test_what_fits_is_loaded_and_what_does_not_is_told_by_kind(tmp_path: Path) -> None:
    state, model = state_of(small(seed=1)), small(seed=2)
    own = state_of(model)
    state["0.0.weight"], state["extra"] = torch.ones(4, 1, 3, 3), state.pop("0.1.bias")
    report = load_weights(model, written(tmp_path, "torch", state), strict=False)
    assert str(report) == (
        "Loaded 6 of 8 tensors. Not in the file: 0.1.bias. Of another shape in the file: 0.0.weight. Not in the model: "
        "extra."
    )
    kept = {name: (own if name in ("0.0.weight", "0.1.bias") else state)[name] for name in own}
    assert same(state_of(model), kept)


def test_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = {name: x for name, x in state_of(small(seed=1)).items() if "num_batches" not in name}
    assert load_weights(small(), written(tmp_path, "torch", state)).missing == ()


def test_numbers_are_converted_between_floating_point_types(tmp_path: Path) -> None:
    state = {n: x.double() if x.is_floating_point() else x for n, x in state_of(small(seed=1)).items()}
    model = small()
    load_weights(model, written(tmp_path, "torch", state))
    assert model[0][0].weight.dtype == torch.float32 and same(state_of(model), state_of(small(seed=1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("0.0.weight"),
            "load_weights expects weights of this model, got no 0.0.weight. path: {path}. Make the model that the file "
            "is of, or load what fits with "
            "--weights-partial (strict=False).",
        ),
        (
            lambda state: state.update({f"9.{i}": torch.ones(1) for i in range(7)}),
            "load_weights expects weights of this model, got unexpected 9.0, 9.1, 9.2, 9.3, 9.4 and 2 more. path: "
            "{path}. Make the model that the file is of, or load what fits with "
            "--weights-partial (strict=False).",
        ),
        (
            lambda state: state.update({"0.0.weight": torch.ones(4, 1, 3, 3)}),
            "load_weights expects weights of this model, got 0.0.weight of shape (4, 1, 3, 3) where the model has "
            "(4, 3, 3, 3). path: {path}. Make the model that the file is of, or load what fits with "
            "--weights-partial (strict=False).",
        ),
        (
            lambda state: state.update({"2.weight": torch.ones(10, 7)}),
            "load_weights expects weights of this model, got 2.weight of shape (10, 7) where the model has (10, 144). "
            "path: {path}. Make the model that the file is of, or load what fits with "
            "--weights-partial (strict=False).",
        ),
        (
            lambda state: state["0.1.running_var"].fill_(float("nan")),
            "load_weights expects finite weights, got NaN or infinity in 0.1.running_var. path: {path}. Give a file of "
            "an earlier moment.",
        ),
        (
            lambda state: state.update({"2.bias": torch.ones(10, dtype=torch.int64)}),
            "load_weights expects 2.bias of torch.float32, got torch.int64. path: {path}. Give the weights of this "
            "model.",
        ),
        (
            lambda state: state.clear(),
            "load_weights expects a checkpoint of torch with tensors by name, got a dict. path: {path}. Copy the file "
            "afresh, or save the weights alone: torch.save(model.state_dict(), path).",
        ),
        (
            lambda state: state.update({"epoch": 3}),
            "load_weights expects a checkpoint of torch with tensors by name, got one with other values. path: {path}. "
            "Copy the file afresh, or save the weights alone: torch.save(model.state_dict(), path).",
        ),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_as_it_is(change: Any, message: str, tmp_path: Path) -> None:
    state, model = state_of(small(seed=1)), small()
    before = state_of(model)
    change(state)
    path = written(tmp_path, "torch", state)
    with pytest.raises(CheckpointError) as error:
        load_weights(model, path)
    assert str(error.value) == message.replace("{path}", str(path))
    assert same(before, state_of(model))


def test_weights_of_which_nothing_fits_are_refused_even_if_few_would_do(tmp_path: Path) -> None:
    path = written(tmp_path, "torch", {"conv.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"got no 0.0.weight, 0.1.weight, .*; unexpected conv.weight. path"):
        load_weights(small(), path, strict=False)


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "hostile.pth"
    torch.save({"0.0.weight": Hostile(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as error:
        load_weights(small(), path)
    assert str(error.value) == (
        "load_weights expects a checkpoint of torch with nothing but tensors, got a pickle that uses getattr. path: "
        f"{path}. Copy the file afresh, or save the weights alone: torch.save(model.state_dict(), path)."
    )
    assert not trace.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps(Hostile(trace), protocol=2))
    with pytest.raises(CheckpointError, match="got a pickle that uses getattr"):
        load_weights(small(), path)
    assert not trace.exists()


def test_an_archive_that_expands_is_refused(tmp_path: Path) -> None:
    whole, path = written(tmp_path, "torch", state_of(small())), tmp_path / "bomb.pth"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in old.infolist():
            bomb.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match="got an archive that torch did not write"):
        load_weights(small(), path)


@pytest.mark.parametrize("legacy", [False, True], ids=["archive", "pickle"])
@pytest.mark.parametrize("claimed", [2000, 2**45, 2**62])
def test_a_claim_of_more_numbers_than_the_file_holds_is_refused(legacy: bool, claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "claim.pth"
    torch.save({"weight": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=not legacy)
    number, larger = b"M\xe8\x03", b"\x8a\x08" + claimed.to_bytes(8, "little")  # as pickles write 1000 and a long
    if legacy:
        content = path.read_bytes()
        assert content.count(number) == 2
        size = content.replace(number, larger).replace((1000).to_bytes(8, "little"), claimed.to_bytes(8, "little"))
        path.write_bytes(size)
    else:
        with zipfile.ZipFile(path) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, content in entries.items():
                new.writestr(name, content.replace(number, larger) if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="load_weights expects a checkpoint of torch with nothing but tensors"):
        load_weights(small(), path)


@pytest.mark.parametrize("kind", ["striate", "safetensors", "torch", "legacy"])
def test_no_truncated_file_loads(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, state_of(small(seed=1)))
    content = path.read_bytes()
    model = small()
    before = state_of(model)
    step = max(1, len(content) // 60)
    for length in [*range(0, len(content) - 1, step), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as error:
            load_weights(model, path)
        assert "\n" not in str(error.value)
    assert same(before, state_of(model))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: None,
            "load_weights expects a file of weights, got No such file or directory. path: {path}. Look at the path.",
        ),
        (
            lambda path: path.mkdir(),
            "load_weights expects a file of weights, got something that is not a file. path: {path}. Give a file.",
        ),
        (
            lambda path: path.write_bytes(b"GIF89a, no weights"),
            "load_weights expects a file of weights, got one that begins with b'GIF8'. path: {path}. Give a "
            ".safetensors file or a .pth file of torch.save.",
        ),
    ],
)
def test_what_is_no_file_of_weights_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(CheckpointError) as error:
        load_weights(small(), path)
    assert str(error.value) == message.replace("{path}", str(path))


def test_one_changed_bit_of_a_file_of_striates_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path, "striate", state_of(small()))
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"load_weights expects a sound safetensors file, got tensor .* SHA-256"):
        load_weights(small(), path)


# Frozen layers.


def test_everything_before_the_layer_stays_bitwise_and_the_rest_learns() -> None:
    torch.manual_seed(0)
    model = models.resnet_cifar(layers=8)
    frozen = freeze_until(model, "layer3")
    assert frozen[0] == "conv1.weight" and not any(name.startswith(("layer3", "fc")) for name in frozen)
    before = state_of(model)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        loss = F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, x in model.state_dict().items():
        if name.startswith(("conv1", "bn1", "layer1", "layer2")):
            assert torch.equal(x, before[name]), name
        else:
            assert not torch.equal(x, before[name]), name
    assert len(frozen) == sum(not p.requires_grad for p in model.parameters()) > 5


def test_frozen_norms_normalize_in_training_as_in_evaluation() -> None:
    model = small()
    freeze_until(model, "2")
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(model.train()(x), model.eval()(x))


def test_a_layer_within_a_block_may_be_the_first_that_learns() -> None:
    model = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4))
    frozen = freeze_until(model, "1.conv2")
    assert {name.rpartition(".")[0] for name in frozen} == {"0.conv1", "0.bn1", "0.conv2", "0.bn2", "1.conv1", "1.bn1"}
    assert model[1].bn1.frozen and not model[1].bn2.frozen


def test_before_the_first_layer_nothing_is_frozen() -> None:
    assert freeze_until(small(), "0") == ()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "layer5",
            "freeze_until expects one of conv1, bn1, relu, layer1, layer2, layer3, avgpool, flatten, fc, or a layer in "
            "them, got 'layer5'. Name one of its layers, as they are in named_modules(). Did you mean layer1 or layer2 "
            "or layer3?",
        ),
        (
            "",
            "freeze_until expects one of conv1, bn1, relu, layer1, layer2, layer3, avgpool, flatten, fc, or a layer in "
            "them, got ''. Name one of its layers, as they are in named_modules().",
        ),
    ],
)
def test_a_name_of_no_layer_is_refused_and_nothing_is_frozen(layer: str, message: str) -> None:
    model = models.resnet_cifar(layers=8)
    with pytest.raises(ArgumentError) as error:
        freeze_until(model, layer)
    assert str(error.value) == message and all(p.requires_grad for p in model.parameters())


def test_batch_norms_of_torchs_are_refused_before_anything_is_frozen() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    with pytest.raises(ArgumentError) as error:
        freeze_until(model, "2")
    assert str(error.value) == (
        "freeze_until expects batch norms of striate's, got torch's at 1. Call striate.accelerate(model) first."
    )
    assert all(p.requires_grad for p in model.parameters())
    assert freeze_until(accelerate(model), "2") == ("0.weight", "0.bias", "1.weight", "1.bias")


# Heads.


@pytest.mark.parametrize("name", ["lenet5", "mlp_bn", "resnet_cifar", "mobilenet_v1"])
def test_the_last_layer_of_a_model_is_its_head(name: str) -> None:
    model = models.classifier(name, 1, (16, 16), 10).eval()
    body = copy.deepcopy({k: x for k, x in model.state_dict().items() if not k.startswith(f"{head_of(model)}.")})
    assert new_head(model, 10) == head_of(model)
    path = new_head(model, 3)
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 3) and path == head_of(model)
    assert all(torch.equal(x, model.state_dict()[k]) for k, x in body.items())


def test_a_convolution_may_be_a_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 1, bias=False), nn.GlobalAvgPool2d())
    assert new_head(model, 4) == "2" and model(torch.randn(2, 3, 6, 6)).shape == (2, 4) and model[2].bias is None


def test_a_model_for_another_number_of_classes_gets_a_head_for_those_there_are() -> None:
    torch.manual_seed(3)
    model = small(10)
    assert fit_head(model, (3, 8, 8), 3) == ("2", 10) and model(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    assert fit_head(model, (3, 8, 8), 3) is None


def test_a_model_whose_scores_are_not_those_of_its_last_layer_stays_as_it_is() -> None:
    class Twice(torch.nn.Module):
        """Its last layer in state_dict is the first that runs."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 10), nn.Linear(2, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x.flatten(1)))

    for model in (Twice(), nn.Flatten(), nn.Sequential(nn.Conv2d(1, 4, 1)), nn.Linear(3, 4)):
        before = dict(model.named_modules())
        assert fit_head(model, (1, 1, 2), 3) is None
        assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: head_of(nn.Sequential(nn.ReLU())),
            "head_of expects a model with a last layer, got Sequential. Give a model with linear layers or "
            "convolutions.",
        ),
        (lambda: new_head(small(), 1), "new_head expects at least 2 classes, got 1. Use a whole number from 2 on."),
        (
            lambda: new_head(nn.Linear(2, 2), 3),
            "new_head expects a model that holds its head, got Linear. Put it into a Sequential.",
        ),
        (
            lambda: new_head(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), 3),
            "new_head expects a linear layer or a convolution as head, got 0: Conv2d(4, 4, kernel_size=(1, 1), "
            "stride=(1, 1), groups=2). Give the model the number of classes when it is made.",
        ),
    ],
)
def test_a_head_that_cannot_be_renewed_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as error:
        call()
    assert str(error.value) == message


def test_a_loaded_and_frozen_model_learns_new_classes(tmp_path: Path) -> None:
    path = written(tmp_path, "torch", state_of(small(10, seed=1)))
    model = small(2)
    load_weights(model, path)
    freeze_until(model, "2")
    torch.manual_seed(0)
    x, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 2
    x[labels == 1] += 1
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for _ in range(20):
        loss = F.cross_entropy(model.train()(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 and torch.equal(model[0][0].weight, small(10, seed=1)[0][0].weight)
