"""Weights of variance 2/fan_in keep the gradient's norm through ReLU layers; smaller ones lose it, larger ones blow it
up.
"""

from __future__ import annotations

from ..claim import Claim, Trial
from ..depth import FACTOR, flow_at_start, hidden_factor
from ..networks import mlp

DEPTHS = (10, 30)
INITS: dict[str, str | float] = {"he": "he", "xavier": "xavier", "gain_3": 3.0}


def measure(trial: Trial) -> dict[str, float]:
    return {
        f"{name}_{depth}": hidden_factor(
            flow_at_start(trial, mlp(depth=depth, classes=trial.classes, init=init, seed=trial.seed))
        )
        for name, init in INITS.items()
        for depth in DEPTHS
    }


CLAIM = Claim(
    name="he-keeps-gradients",
    claim="With ReLU, He's first weights keep the gradient; it vanishes with Xavier's and explodes with larger ones.",
    section="7.13",
    source="notes; K. He et al., Delving Deep into Rectifiers, 2015",
    expected="holds",
    setting=(
        "Perceptrons of 10 and 30 ReLU layers of width 128. Weights have the deviation g/√fan_in with g = √2 (He), 1 "
        f"(Xavier) or 3. {FACTOR} Theory has g/√2."
    ),
    statistics={
        f"{name}_{depth}": f"factor a layer of {depth} layers, {text}"
        for name, text in (("he", "He's weights"), ("xavier", "Xavier's weights"), ("gain_3", "gain 3"))
        for depth in DEPTHS
    },
    criterion=(
        "abs(he_10 - 1) < 0.08 and abs(he_30 - 1) < 0.08 and "
        "abs(xavier_10 * 2 ** 0.5 - 1) < 0.08 and abs(xavier_30 * 2 ** 0.5 - 1) < 0.08 and "
        "abs(gain_3_10 * 2 ** 0.5 / 3 - 1) < 0.08 and abs(gain_3_30 * 2 ** 0.5 / 3 - 1) < 0.08"
    ),
    measure=measure,
    why=(
        "Half of the ReLUs of a layer pass the gradient on, which costs a factor of 1/√2 of its norm, and weights of "
        "gain g give a factor of g back. With g = √2 nothing is lost over 30 layers. Xavier's g = 1 loses 1/√2 a "
        "layer, 10⁻⁵ over 30, and g = 3 gains 2.12 a layer, 10⁹ over 30: the notes' weights that are \"too small\" and "
        "\"too large\" are not far apart. Norms of the gradient by a layer's input show this; those by its weights "
        "stay flat, since the layers that get little of the gradient have the larger inputs."
    ),
    seconds=3,
    takes=frozenset({"data"}),
)
