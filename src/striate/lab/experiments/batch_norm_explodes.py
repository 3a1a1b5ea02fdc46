"""Before training, batch norm with ReLU makes the gradient grow by √(π/(π - 1)) a layer."""

from __future__ import annotations

from ..claim import Claim, Trial
from ..depth import FACTOR, flow_at_start, hidden_factor
from ..networks import convnet, mlp

DEPTH, WIDTH = 30, 256
PLAN = "-".join(["16"] * 24)


def measure(trial: Trial) -> dict[str, float]:
    found = {}
    for name, norm in (("batch_norm", "batch"), ("plain", "none")):
        perceptron = mlp(width=WIDTH, depth=DEPTH, classes=trial.classes, norm=norm, seed=trial.seed)
        found[name] = hidden_factor(flow_at_start(trial, perceptron))
        convolutions = convnet(PLAN, classes=trial.classes, norm=norm, head="flatten", seed=trial.seed)
        found[f"{name}_convolutions"] = hidden_factor(flow_at_start(trial, convolutions))
    return found


CLAIM = Claim(
    name="batch-norm-explodes",
    claim="Before training, batch norm with ReLU makes the gradient explode: by √(π/(π - 1)) = 1.211 a layer.",
    section="7.14.4",
    source="G. Yang et al., A Mean Field Theory of Batch Normalization, 2019; notes, which say the opposite",
    expected="holds",
    setting=(
        "A perceptron of 30 ReLU layers of width 256, and 24 convolutions of 16 channels on maps of 8×8 and a linear "
        f"layer on all positions, with He's weights. {FACTOR}"
    ),
    statistics={
        "batch_norm": "factor a layer of the perceptron with batch norm before each ReLU",
        "batch_norm_convolutions": "the same of the convolutions",
        "plain": "factor a layer of the perceptron without norm",
        "plain_convolutions": "the same of the convolutions",
    },
    criterion="abs(batch_norm / 1.211 - 1) < 0.04 and abs(batch_norm_convolutions / 1.211 - 1) < 0.04",
    measure=measure,
    why=(
        "The notes credit batch norm with gradients that neither vanish nor explode. Before training it makes them "
        "explode: each layer divides by the deviation of what ReLU left of a normalized sum, and so multiplies the "
        "gradient by √(π/(π - 1)), as mean field theory has it, 300 times over 30 layers, where He's weights alone "
        "keep it. Training survives this because steps of scale-invariant weights shrink as these grow. The "
        "convolutions need a head that sees every position: where it takes a mean over them, the gradient is the same "
        "at all positions, batch norm takes a mean out of it, and the factor is 1.08 to 1.09. Padding with zeros loses "
        "some at the borders."
    ),
    seconds=15,
    takes=frozenset({"data"}),
)
