"""Made-up values of statistics by which a claim holds, and others by which it fails."""

from __future__ import annotations

VALUES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "sigmoid-quarter": (
        {
            "plain_10": 0.236,
            "theory_10": 0.235,
            "batch_norm_10": 1.0,
            "plain_30": 0.238,
            "theory_30": 0.235,
            "batch_norm_30": 1.0,
        },
        {
            "plain_10": 0.27,
            "theory_10": 0.27,
            "batch_norm_10": 1.0,
            "plain_30": 0.238,
            "theory_30": 0.235,
            "batch_norm_30": 1.0,
        },
    ),
    "he-keeps-gradients": (
        {"he_10": 1.03, "he_30": 0.98, "xavier_10": 0.71, "xavier_30": 0.7, "gain_3_10": 2.1, "gain_3_30": 2.15},
        {"he_10": 1.03, "he_30": 0.98, "xavier_10": 0.95, "xavier_30": 0.9, "gain_3_10": 2.1, "gain_3_30": 2.15},
    ),
    "deep-sigmoid": (
        {"plain": 0.1, "batch_norm": 0.97, "residual": 0.98},
        {"plain": 0.1, "batch_norm": 0.97, "residual": 0.5},
    ),
    "residual-gradient": (
        {"plain_sigmoid": 0.236, "residual_sigmoid": 1.03, "plain_relu": 1.0, "residual_relu": 1.41},
        {"plain_sigmoid": 0.236, "residual_sigmoid": 0.8, "plain_relu": 1.0, "residual_relu": 1.41},
    ),
    "dead-units": (
        {"plain": 0.9, "plain_accuracy": 0.1, "batch_norm": 0.0, "batch_norm_accuracy": 0.99},
        {"plain": 0.9, "plain_accuracy": 0.1, "batch_norm": 0.05, "batch_norm_accuracy": 0.99},
    ),
    "born-dead": (
        {
            "narrow_5": 0.6,
            "narrow_10": 0.9,
            "narrow_20": 0.99,
            "wide_5": 0.0,
            "wide_10": 0.0,
            "wide_20": 0.02,
            "batch_norm_20": 0.0,
        },
        {
            "narrow_5": 0.6,
            "narrow_10": 0.9,
            "narrow_20": 0.99,
            "wide_5": 0.0,
            "wide_10": 0.0,
            "wide_20": 0.02,
            "batch_norm_20": 0.4,
        },
    ),
    "noisy-batch-norm": (
        {
            "plain_loss": 0.3,
            "plain_drift": 0.17,
            "batch_norm_loss": 0.005,
            "batch_norm_drift": 0.0004,
            "noisy_loss": 0.02,
            "noisy_drift": 0.3,
        },
        {
            "plain_loss": 0.05,
            "plain_drift": 0.17,
            "batch_norm_loss": 0.005,
            "batch_norm_drift": 0.0004,
            "noisy_loss": 0.02,
            "noisy_drift": 0.3,
        },
    ),
    "higher-rates": (
        {"plain_highest": 0.1, "plain_range": 1.0, "batch_norm_highest": 1.0, "batch_norm_range": 33.0},
        {"plain_highest": 0.3, "plain_range": 10.0, "batch_norm_highest": 1.0, "batch_norm_range": 33.0},
    ),
    "loss-along-gradient": (
        {"plain_slow": 9.0, "plain_fast": 1.7, "batch_norm_slow": 0.05, "batch_norm_fast": 0.02},
        {"plain_slow": 9.0, "plain_fast": 0.3, "batch_norm_slow": 0.05, "batch_norm_fast": 0.02},
    ),
    "gradient-predictiveness": (
        {"plain_slow": 20.0, "plain_fast": 9.0, "batch_norm_slow": 2.0, "batch_norm_fast": 1.6},
        {"plain_slow": 5.0, "plain_fast": 9.0, "batch_norm_slow": 2.0, "batch_norm_fast": 1.6},
    ),
    "effective-smoothness": (
        {"plain_slow": 50.0, "plain_fast": 25.0, "batch_norm_slow": 8.0, "batch_norm_fast": 7.0},
        {"plain_slow": 50.0, "plain_fast": 12.0, "batch_norm_slow": 8.0, "batch_norm_fast": 7.0},
    ),
    "hessian-in-training": (
        {
            "plain_slow": 60.0,
            "plain_fast": 26.0,
            "batch_norm_slow": 14.0,
            "batch_norm_fast": 10.0,
            "plain_slow_scaled": 9000.0,
            "plain_fast_scaled": 4000.0,
            "batch_norm_slow_scaled": 3000.0,
            "batch_norm_fast_scaled": 2000.0,
        },
        {
            "plain_slow": 60.0,
            "plain_fast": 12.0,
            "batch_norm_slow": 14.0,
            "batch_norm_fast": 10.0,
            "plain_slow_scaled": 9000.0,
            "plain_fast_scaled": 4000.0,
            "batch_norm_slow_scaled": 3000.0,
            "batch_norm_fast_scaled": 2000.0,
        },
    ),
    "hessian-by-mode": (
        {"plain": 26.0, "batch_norm_training": 10.0, "batch_norm_evaluation": 40.0},
        {"plain": 26.0, "batch_norm_training": 10.0, "batch_norm_evaluation": 11.0},
    ),
    "batch-norm-explodes": (
        {"batch_norm": 1.2, "batch_norm_convolutions": 1.19, "plain": 1.0, "plain_convolutions": 0.9},
        {"batch_norm": 1.0, "batch_norm_convolutions": 1.19, "plain": 1.0, "plain_convolutions": 0.9},
    ),
    "hessian-at-initialisation": (
        {
            "plain_4": 8.0,
            "plain_8": 8.0,
            "plain_16": 50.0,
            "plain_24": 400.0,
            "batch_norm_4": 8.0,
            "batch_norm_8": 8.0,
            "batch_norm_16": 5.0,
            "batch_norm_24": 2.0,
        },
        {
            "plain_4": 8.0,
            "plain_8": 8.0,
            "plain_16": 5.0,
            "plain_24": 2.0,
            "batch_norm_4": 8.0,
            "batch_norm_8": 8.0,
            "batch_norm_16": 50.0,
            "batch_norm_24": 400.0,
        },
    ),
}
