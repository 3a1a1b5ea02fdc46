"""Made-up values of statistics by which a claim holds, and others by which it fails."""

from __future__ import annotations

CHEAPER = {"plain_error": 0.05, "cheap_error": 0.055, "parameters": 6.5, "macs": 6.0, "speed": 1.8}

VALUES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "shuffled-pixels": (
        {"perceptron": 0.1, "perceptron_shuffled": 0.1, "convolutional": 0.05, "convolutional_shuffled": 0.3},
        {"perceptron": 0.1, "perceptron_shuffled": 0.1, "convolutional": 0.05, "convolutional_shuffled": 0.06},
    ),
    "shifted-images": (
        {
            "perceptron": 0.03,
            "perceptron_one": 0.6,
            "perceptron_two": 0.6,
            "flattened": 0.02,
            "flattened_one": 0.4,
            "flattened_two": 0.4,
            "averaged": 0.03,
            "averaged_one": 0.06,
            "averaged_two": 0.06,
        },
        {  # the mean over positions does not help
            "perceptron": 0.03,
            "perceptron_one": 0.6,
            "perceptron_two": 0.6,
            "flattened": 0.02,
            "flattened_one": 0.4,
            "flattened_two": 0.4,
            "averaged": 0.03,
            "averaged_one": 0.4,
            "averaged_two": 0.4,
        },
    ),
    "locally-connected": (
        {
            "shared_centred": 0.02,
            "shared_scattered": 0.06,
            "local_centred": 0.03,
            "local_scattered": 0.2,
            "shared_parameters": 2000,
            "local_parameters": 50000,
        },
        {  # sharing does not help
            "shared_centred": 0.02,
            "shared_scattered": 0.2,
            "local_centred": 0.03,
            "local_scattered": 0.2,
            "shared_parameters": 2000,
            "local_parameters": 50000,
        },
    ),
    "downsampling": (
        {"maximum": 0.05, "average": 0.05, "learned": 0.04, "strided": 0.06},
        {"maximum": 0.05, "average": 0.05, "learned": 0.1, "strided": 0.06},
    ),
    "pooling-localisation": (
        {"full": 0.4, "maximum": 0.6, "average": 0.5, "strided": 0.5, "global_average": 3.0},
        {"full": 0.6, "maximum": 0.6, "average": 0.5, "strided": 0.5, "global_average": 3.0},
    ),
    "head-flatten-or-gap": (
        {
            "flattened_error": 0.06,
            "flattened_gap": 0.06,
            "flattened_parameters": 80000,
            "averaged_error": 0.05,
            "averaged_gap": 0.05,
            "averaged_parameters": 16000,
        },
        {  # the mean over positions generalises worse
            "flattened_error": 0.04,
            "flattened_gap": 0.04,
            "flattened_parameters": 80000,
            "averaged_error": 0.1,
            "averaged_gap": 0.1,
            "averaged_parameters": 16000,
        },
    ),
    "early-downsampling": (
        {"early_small": 0.5, "late_small": 0.3, "early_large": 0.2, "late_large": 0.15},
        {"early_small": 0.5, "late_small": 0.3, "early_large": 0.4, "late_large": 0.15},
    ),
    "bottleneck": (CHEAPER, CHEAPER | {"cheap_error": 0.2}),
    "depthwise-separable": (CHEAPER, CHEAPER | {"speed": 0.7}),
    "stacked-3x3": (CHEAPER | {"cheap_error": 0.04}, CHEAPER),
    "field-needed": (
        {
            "near_below": 0.5,
            "near_at": 1.0,
            "near_above": 1.0,
            "far_below": 0.5,
            "far_at": 0.99,
            "far_above": 1.0,
        },
        {
            "near_below": 0.5,
            "near_at": 1.0,
            "near_above": 1.0,
            "far_below": 0.9,
            "far_at": 0.99,
            "far_above": 1.0,
        },
    ),
    "dilation-gridding": (
        {
            "same_seen": 7 / 13,
            "same_odd": 0.5,
            "same_even": 1.0,
            "mixed_seen": 1.0,
            "mixed_odd": 1.0,
            "mixed_even": 1.0,
        },
        {  # what lies between is seen all the same
            "same_seen": 7 / 13,
            "same_odd": 1.0,
            "same_even": 1.0,
            "mixed_seen": 1.0,
            "mixed_odd": 1.0,
            "mixed_even": 1.0,
        },
    ),
    "first-filters": (
        {"gabor": 0.7, "gabor_random": 0.3, "sobel": 0.3, "sobel_random": 0.08, "error": 0.02},
        {"gabor": 0.35, "gabor_random": 0.3, "sobel": 0.3, "sobel_random": 0.08, "error": 0.02},
    ),
    "shallow-transfer": (
        {"none": 0.02, "shallow": 0.02, "deep": 0.1, "random": 0.2},
        {"none": 0.02, "shallow": 0.02, "deep": 0.02, "random": 0.2},
    ),
}
