"""What an operation costs: its multiply-adds, forward and backward, counted on the recording.

A multiply-add (MAC) is one product added to a sum. Counted are the operations made of them: convolutions and their
transposes, products of matrices and attention. Taps that fall into the padding count, as everywhere in the field
(:attr:`striate.window.Window.tap_count` leaves them out). FLOPs are given as 2 a MAC; biases, activations, norms and
pooling are in neither number.
"""

from __future__ import annotations

from math import prod

from .recording import LOCAL, WRITTEN, Operation, Recording, Ref

__all__ = ["FLOPS_PER_MAC", "backward_macs", "macs"]

FLOPS_PER_MAC = 2
PRODUCTS = {  # the names of what is multiplied
    "aten.mm": ("self", "mat2"),
    "aten.addmm": ("mat1", "mat2"),
    "aten.bmm": ("self", "mat2"),
    "aten.baddbmm": ("batch1", "batch2"),
    "aten.mv": ("self", "vec"),
    "aten.addmv": ("mat", "vec"),
    "aten.dot": ("self", "tensor"),
    "aten.vdot": ("self", "other"),
}
CONVOLUTIONS = ("aten.convolution", "aten._convolution", "aten.mkldnn_convolution")
ATTENTION = "aten._scaled_dot_product"
# an LSTM's layer in one direction: of x (steps, N, in) and two weights, of the input and of the state
RECURRENT = "aten.mkldnn_rnn_layer"
# Made of products that are not counted here.
UNCOUNTED = tuple(
    f"aten.{name}"
    for name in (
        *("lstm", "gru", "rnn", "_thnn", "_trilinear", "_cudnn_rnn", "cdist", "_cdist", "fft", "_fft", "_linalg"),
        *(
            "linalg_solve",
            "linalg_inv",
            "linalg_eig",
            "linalg_qr",
            "linalg_cholesky",
            "_native_multi_head",
            "_transformer_encoder",
        ),
    )
)


def macs(recording: Recording, op: Operation) -> int | None:
    """Of one operation, forward; None where they are not known.

    >>> from striate.graph.recording import record
    >>> from torch.nn import Conv2d
    >>> recording = record(Conv2d(3, 10, 5, padding=2), (1, 3, 32, 32))
    >>> macs(recording, recording.operations[0])
    768000
    """
    if op.name in CONVOLUTIONS:
        weight = recording.values[op.inputs[1]].shape
        per_value = prod(weight[1:])  # of the output; of the input where it is transposed, which is spread out
        of = op.inputs[0] if op.arguments.get("transposed") else op.outputs[0]
        return prod(recording.values[of].shape) * per_value
    if op.name == LOCAL:
        layer = op.arguments["layer"]
        return prod(recording.values[op.outputs[0]].shape) * layer.in_channels * prod(layer.weight.shape[-layer.dims :])
    if op.name in PRODUCTS:
        left, right = (_shape(recording, op, name) for name in PRODUCTS[op.name])
        if left is None or right is None:
            return None
        return prod(left) * (right[-1] if len(right) > 1 else 1)
    if op.name.startswith(ATTENTION):
        query, key, value = (recording.values[v].shape for v in op.inputs[:3])
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if op.name == RECURRENT:
        of_input, of_state = _recurrent(recording, op)
        return of_input + of_state
    known = op.name == WRITTEN or (op.name.startswith("aten.") and not op.name.startswith(UNCOUNTED))
    return 0 if known or not op.outputs else None


def backward_macs(recording: Recording, op: Operation) -> int | None:
    """Of its gradients: each factor's takes as many as the operation, where a gradient of it is asked."""
    forward = macs(recording, op)
    if not forward:
        return forward
    if op.name.startswith(ATTENTION):  # five products in place of two
        return forward * 5 // 2 if any(op.needs[:3]) else 0
    if op.name == RECURRENT:
        of_input, of_state = _recurrent(recording, op)
        x, input_weight, state_weight, _, _, state, *_ = op.needs
        # nobody asks for the gradient of a first state that is made of zeros
        steps = recording.values[op.inputs[0]].shape[0]
        through = of_state if state else of_state // max(1, steps) * (steps - 1)
        return of_input * (x + input_weight) + of_state * state_weight + through if any(op.needs) else 0
    names = PRODUCTS.get(op.name)
    factors = op.inputs[:2] if names is None else [v for v in (_ref(op, name) for name in names) if v is not None]
    asked = {value: need for value, need in zip(op.inputs, op.needs, strict=True)}
    return forward * sum(asked.get(value, False) for value in factors)


def _recurrent(recording: Recording, op: Operation) -> tuple[int, int]:
    """MACs of all steps: with the input's weight, and with the state's."""
    x, *weights = (recording.values[v].shape for v in op.inputs[:3])
    of_input, of_state = (prod(x[:-1]) * prod(weight) for weight in weights)
    return of_input, of_state


def _ref(op: Operation, name: str) -> int | None:
    given = op.arguments.get(name)
    return given.value if isinstance(given, Ref) else None


def _shape(recording: Recording, op: Operation, name: str) -> tuple[int, ...] | None:
    value = _ref(op, name)
    return None if value is None else recording.values[value].shape
