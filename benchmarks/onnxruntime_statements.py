"""Of which choices `onnxruntime_profile.py` finds out what ONNX Runtime makes of them."""

from __future__ import annotations

from typing import Any

ONLY = {"activation_bits": "float"}  # weights alone are quantized
GROUPS = {"weight_granularity": "per_group"}
PAIRS = [(weights, activations) for weights in (2, 4, 16, "float") for activations in (2, 4, 16)]
S8 = {"activation_symmetric": True}
STATEMENTS: list[tuple[str, Any, dict[str, Any]]] = [  # field, value, and on which other choices it depends
    ("quantizer", "uniform", {}),
    *[("weight_bits", bits, GROUPS | ONLY) for bits in (2, 4, 8, 16)],
    *[("weight_bits", bits, ONLY) for bits in (2, 4, 8, 16, "float")],
    *[("weight_bits", weights, {"activation_bits": activations}) for weights, activations in PAIRS],
    *[("weight_bits", bits, {}) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, "float")],
    *[("activation_bits", "float", GROUPS | {"weight_bits": bits}) for bits in (2, 4, 8, 16)],
    *[("activation_bits", "float", {"weight_bits": bits}) for bits in (2, 4, 8, 16, "float")],
    *[("activation_bits", activations, {"weight_bits": weights}) for weights, activations in PAIRS],
    *[("activation_bits", bits, {}) for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16)],
    ("weight_symmetric", False, GROUPS | ONLY),
    ("weight_symmetric", False, ONLY),
    ("weight_symmetric", False, S8),
    ("weight_symmetric", False, {}),
    ("weight_symmetric", True, ONLY),
    ("weight_symmetric", True, {}),
    ("activation_symmetric", True, {}),
    ("activation_symmetric", False, {}),
    ("symmetric_grid", "restricted", ONLY),
    ("symmetric_grid", "restricted", S8),
    ("symmetric_grid", "restricted", {}),
    ("symmetric_grid", "full", ONLY),
    ("symmetric_grid", "full", {}),
    *[("weight_granularity", size, ONLY) for size in ("per_group", "per_channel", "per_tensor")],
    *[("weight_granularity", size, {}) for size in ("per_group", "per_channel", "per_tensor")],
    ("activation_granularity", "per_tensor", {}),
    ("activation_granularity", "per_channel", {}),
    ("activation_dynamic", True, {"weight_symmetric": False, "weight_granularity": "per_channel"}),
    ("activation_dynamic", True, {}),
    ("activation_dynamic", False, {}),
    ("quantize_skip", False, {}),
    ("quantize_skip", True, {}),
    ("quantize_residual", False, {}),
    ("quantize_residual", True, {}),
    ("pooling", "float", {}),
    ("pooling", "low_precision", {}),
    ("pooling", "high_precision", {}),
    *[("input_bits", bits, {}) for bits in (4, 8, 16, "float")],
    ("quantize_output", False, {}),
    ("quantize_output", True, {}),
    *[("batch_norm", how, where) for how in ("separate", "folded") for where in (ONLY, {})],
    *[("bias", bits, where) for bits in (32, "float") for where in (ONLY, {})],
    *[("first_last_bits", bits, where) for where in (ONLY, {}) for bits in (4, 8, 16, "float")],
]
UNSEEN: dict[str, dict[str, Any]] = {  # what no card says of a network of convolutions
    "HardSwish instead of ReLU": {"function": "HardSwish"},
    "depthwise convolutions": {"depthwise": True},
    "depthwise convolutions and HardSwish": {"function": "HardSwish", "depthwise": True},
}
