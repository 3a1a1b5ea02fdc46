"""Images that are shifted after training on centred ones."""

from __future__ import annotations

from statistics import fmean

from ..claim import Claim, Trial
from ..networks import convnet, mlp
from ..shifts import SHIFTS, centred, shifted
from ..training import accuracy, train_steps

PLAN, STEPS, RATE = "16-16-M-32-32", 300, 0.1


def measure(trial: Trial) -> dict[str, float]:
    """The test errors of three networks on centred images, and on images shifted by one or two pixels."""
    x, y, x_test, y_test = trial.digits()
    x, classes, seed = centred(x), trial.classes, trial.seed
    models = {
        "perceptron": mlp(x[0].numel(), depth=2, classes=classes, seed=seed),
        "flattened": convnet(PLAN, classes=classes, head="flatten", size=x.shape[-1], seed=seed),
        "averaged": convnet(PLAN, classes=classes, seed=seed),
    }
    found = {}
    for name, model in models.items():
        train_steps(model, x, y, trial.steps(STEPS), lr=RATE, schedule="cosine", seed=seed)
        found[name] = 1 - accuracy(model, centred(x_test), y_test)
        found[f"{name}_shifted"] = 1 - fmean(accuracy(model, shifted(x_test, *shift), y_test) for shift in SHIFTS)
    return found


CLAIM = Claim(
    name="shifted-images",
    claim="Trained on centred images, a convolutional network that averages over positions recognises shifted ones; a "
    "perceptron does not, nor do convolutions whose outputs a linear layer reads place by place.",
    section="7.9.2",
    source="notes",
    expected="holds",
    setting=f"Digits in the middle of 12×12 pixels; a perceptron with two hidden layers of 128, and convolutions "
    f"{PLAN} with a flattened head or a mean over positions; 300 steps of SGD on batches of 64, rate 0.1, cosine. "
    "Tested on the 24 shifts by one or two pixels.",
    statistics={
        f"{name}{suffix}": f"test error, a share, {text}, {images}"
        for name, text in (
            ("perceptron", "perceptron"),
            ("flattened", "convolutions and a flattened head"),
            ("averaged", "convolutions and a mean over positions"),
        )
        for suffix, images in (("", "centred images"), ("_shifted", "shifted images"))
    },
    criterion="averaged_shifted - averaged <= 0.1 and perceptron_shifted - perceptron >= 0.3 "
    "and flattened_shifted - flattened >= 0.2",
    measure=measure,
    why="Not measured yet.",
    seconds=50,
    takes=frozenset({"data"}),
)
