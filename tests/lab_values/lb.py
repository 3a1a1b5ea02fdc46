"""Made-up results of experiments: by which a claim holds, and by which it fails."""

VALUES: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "scale-invariance": (
        {
            "output_change": 1e-9,
            "gradient_ratio": 1 / 3,
            "eigenvalue_ratio": 1 / 9,
            "cosine": 3e-12,
            "plain_output_change": 26.0,
        },
        {  # the gradient does not change with the weights
            "output_change": 1e-9,
            "gradient_ratio": 1.0,
            "eigenvalue_ratio": 1 / 9,
            "cosine": 3e-12,
            "plain_output_change": 26.0,
        },
    ),
    "norms-grow": (
        {"usual_eps_off": 6e-4, "small_eps_off": 1e-8, "plain_off": 5.0, "falls": 0.0, "plain_falls": 9.0},
        {"usual_eps_off": 6e-4, "small_eps_off": 1e-8, "plain_off": 5.0, "falls": 3.0, "plain_falls": 9.0},
    ),
    "decay-sets-rate": (
        {"gentle": 0.95, "strong": 1.02, "half_momentum": 0.98, "high_momentum": 1.05},
        {"gentle": 0.6, "strong": 1.02, "half_momentum": 0.98, "high_momentum": 1.05},
    ),
    "decay-of-scales": (
        {
            "usual_error_all": 0.01,
            "usual_scale_all": 0.8,
            "usual_error_weights": 0.01,
            "usual_scale_weights": 1.0,
            "strong_error_all": 0.3,
            "strong_scale_all": 0.1,
            "strong_error_weights": 0.02,
            "strong_scale_weights": 1.0,
            "extreme_error_all": 0.9,
            "extreme_scale_all": 0.0,
            "extreme_error_weights": 0.1,
            "extreme_scale_weights": 1.0,
        },
        {  # the scales fall, and the accuracy does not
            "usual_error_all": 0.01,
            "usual_scale_all": 0.8,
            "usual_error_weights": 0.01,
            "usual_scale_weights": 1.0,
            "strong_error_all": 0.02,
            "strong_scale_all": 0.1,
            "strong_error_weights": 0.02,
            "strong_scale_weights": 1.0,
            "extreme_error_all": 0.9,
            "extreme_scale_all": 0.0,
            "extreme_error_weights": 0.1,
            "extreme_scale_weights": 1.0,
        },
    ),
    "group-norm-small-batches": (
        {"batch_2": 0.2, "batch_4": 0.02, "batch_32": 0.01, "group_2": 0.02, "group_4": 0.02, "group_32": 0.03},
        {"batch_2": 0.03, "batch_4": 0.02, "batch_32": 0.01, "group_2": 0.02, "group_4": 0.02, "group_32": 0.03},
    ),
    "precise-statistics": (
        {"running": 0.25, "precise": 0.15, "pairs": 0.4},
        {"running": 0.25, "precise": 0.25, "pairs": 0.4},
    ),
    "forgotten-eval": (
        {"evaluation": 0.02, "mixed": 0.02, "pairs": 0.2, "single": 0.7, "one_class": 0.8},
        {"evaluation": 0.02, "mixed": 0.02, "pairs": 0.2, "single": 0.03, "one_class": 0.8},
    ),
    "one-class-batches": (
        {"mixed": 0.02, "one_class": 0.5, "group": 0.03},
        {"mixed": 0.02, "one_class": 0.03, "group": 0.03},
    ),
    "running-momentum": (
        {"slow": 0.5, "usual": 0.04, "last": 0.1, "precise": 0.03},
        {"slow": 0.5, "usual": 0.04, "last": 0.04, "precise": 0.03},
    ),
    "norm-before-activation": (
        {
            "relu_before": 0.01,
            "relu_after": 0.02,
            "relu_error_before": 0.02,
            "relu_error_after": 0.02,
            "sigmoid_before": 0.1,
            "sigmoid_after": 0.2,
            "sigmoid_error_before": 0.05,
            "sigmoid_error_after": 0.06,
        },
        {
            "relu_before": 0.02,
            "relu_after": 0.01,
            "relu_error_before": 0.02,
            "relu_error_after": 0.02,
            "sigmoid_before": 0.1,
            "sigmoid_after": 0.2,
            "sigmoid_error_before": 0.05,
            "sigmoid_error_after": 0.06,
        },
    ),
    "batch-norm-regularizes": (
        {
            "plain_gap": 0.4,
            "plain_error": 0.1,
            "whole_gap": 0.3,
            "whole_error": 0.08,
            "ghost_gap": 0.2,
            "ghost_error": 0.07,
        },
        {
            "plain_gap": 0.2,
            "plain_error": 0.1,
            "whole_gap": 0.3,
            "whole_error": 0.08,
            "ghost_gap": 0.2,
            "ghost_error": 0.07,
        },
    ),
    "batch-norm-cancels-bias": (
        {
            "gradient": 1e-14,
            "batch_change": 1e-14,
            "group_change": 0.5,
            "instance_change": 1e-14,
            "evaluation_change": 0.5,
        },
        {
            "gradient": 1e-14,
            "batch_change": 0.1,
            "group_change": 0.5,
            "instance_change": 1e-14,
            "evaluation_change": 0.5,
        },
    ),
    "folding-while-training": (
        {"difference": 1e-6, "unfolded": 0.02, "folded": 1.0},
        {"difference": 1e-6, "unfolded": 0.02, "folded": 0.02},
    ),
    "learning-online": (
        {"batch": 0.5, "layer": 0.05, "group": 0.05, "refused": 1.0},
        {"batch": 0.05, "layer": 0.05, "group": 0.05, "refused": 1.0},
    ),
    "frozen-norms-fine-tuning": (
        {"live": 0.2, "frozen": 0.03, "group": 0.02},
        {"live": 0.03, "frozen": 0.03, "group": 0.02},
    ),
    "layer-norm-recurrent": (
        {
            "plain": 0.1,
            "layer": 0.05,
            "batch": 0.4,
            "batch_in_training_mode": 0.06,
        },
        {
            "plain": 0.1,
            "layer": 0.05,
            "batch": 0.06,
            "batch_in_training_mode": 0.06,
        },
    ),
}
