"""Networks of other packages through every step of tests/published.py, and the report about them."""

from __future__ import annotations

from typing import Any

import published
import pytest
import torch
from published import NETWORKS, REPORT, Network, take_all
from torch import Tensor


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the tests share the cores


@pytest.mark.parametrize(
    "network",
    [pytest.param(n, id=n.id.replace(" ", "-"), marks=[] if n.small else [pytest.mark.nightly]) for n in NETWORKS],
)
def test_a_network_computes_trains_and_is_deployed_as_it_was_published(network: Network) -> None:
    take_all(network)


def test_there_are_a_hundred_networks_and_the_suite_takes_five() -> None:
    assert len({n.id for n in NETWORKS}) == len(NETWORKS) >= 100
    assert sum(n.small for n in NETWORKS) == 5


def test_the_report_has_a_row_for_every_network() -> None:
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in REPORT.read_text().splitlines() if line.startswith("| ")
    ]
    assert rows == ["network", *(n.id for n in NETWORKS)]


# ------------------------------------------------------------------------------------ that the steps find what is wrong

TINY = next(n for n in NETWORKS if n.id == "MONAI Discriminator")


class Skewed(torch.autograd.Function):
    """Returns its input, with a gradient that is wrong by a thousandth."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy * 1.001


def a_convolution(model: torch.nn.Module) -> torch.nn.Module:
    return next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))


def test_weights_off_by_a_ten_thousandth_are_found() -> None:
    case = published.start(TINY)
    weight = a_convolution(case.accelerated).weight
    with torch.no_grad():
        weight.addcmul_(weight, torch.randn_like(weight), value=1e-4)
    for step in (published.evaluation, published.training):
        with pytest.raises(
            AssertionError, match=r"(output 0|the loss) is off \S+, torch's float32 \S+e-0[789], allowed \S+e-07"
        ):
            step(case)


def test_a_gradient_off_by_a_thousandth_is_found() -> None:
    case = published.start(TINY)
    a_convolution(case.accelerated).register_forward_hook(lambda module, args, y: Skewed.apply(y))
    published.evaluation(case)
    with pytest.raises(AssertionError, match=r"weight is off 1\.0e-03"):
        published.training(case)


def test_what_works_or_is_refused_with_other_words_does_not_stay_in_the_table() -> None:
    with pytest.raises(AssertionError, match="folded of MONAI Discriminator works now: take 'no' out of the table"):
        take_all(TINY._replace(refused={"folded": "no"}))
    refused = next(n for n in NETWORKS if n.id == "MONAI RegUNet")
    with pytest.raises(
        AssertionError,
        match=r"MONAI RegUNet is refused with other words: fold expects a model whose code asks for no size",
    ):
        take_all(refused._replace(refused={"folded": "some other error"}))
