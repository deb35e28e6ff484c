"""The operators of ONNX, ONNX Runtime and QONNX that a card is read from, by what they do."""

from __future__ import annotations

# Layers: where their input, weights and biases stand among what they are given
LAYERS: dict[str, tuple[int, int, int | None]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "FusedConv": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "FusedGemm": (0, 1, 2),
    "MatMul": (0, 1, None),
    "FusedMatMul": (0, 1, None),
    "Einsum": (0, 1, None),
    "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3, None),
    "QGemm": (0, 3, 6),
    "ConvInteger": (0, 1, None),
    "MatMulInteger": (0, 1, None),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "MatMulNBits": (0, 1, 5),
}
PRODUCTS = (
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Einsum",
    "QLinearMatMul",
    "QGemm",
)  # of either side
ON_CODES = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
)  # x, its scale and zero-point, w, its scale and zero-point
INTEGER = {  # scale and zero-point of the weights, if they are given to the layer
    "ConvInteger": (None, 3),
    "MatMulInteger": (None, 3),
    "MatMulIntegerToFloat": (3, 5),
    "DynamicQuantizeMatMul": (2, 3),
}
QUANTIZERS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Quant",
    "IntQuant",
    "BipolarQuant",
)
NO_WEIGHTS = ("RotaryEmbedding", "GroupQueryAttention", "EmbedLayerNormalization", "QEmbedLayerNormalization")
RECURRENT = ("LSTM", "GRU", "RNN")  # with weights that no convolution and no linear layer has
ADDITIONS = {"Add": 1, "Sum": 1, "QLinearAdd": 3}  # and where the second operand stands
POOLINGS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
GIVES_AT = {"QLinearConv": 6, "QLinearMatMul": 6, "QGemm": 7, "QLinearAdd": 6, "QLinearMul": 6}
GIVES_AT |= {"QLinearConcat": 0, "QLinearWhere": 7}  # scale of what operators on codes give; others: at 3
ACTIVATIONS = (
    "Relu",
    "Clip",
    "Max",
    "Min",
)  # the last two: what a grid narrower than its type needs before it
KEEP_GRID = (
    *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Relu", "Identity", "Dropout", "Cast"),
    *("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Pad"),
    *("Slice", "Split", "Gather", "GatherElements", "DepthToSpace", "SpaceToDepth"),
)
JOIN = ("Concat", "Where", "ScatterND")  # of values on one grid, if all lie on it
KEEP_STORED = ("Identity", "Dropout", "Cast", "Slice", "Split", "Transpose", "Reshape", "Flatten")
KEEP_STORED += ("Squeeze", "Unsqueeze", "Gather", "Expand", "Tile")
KEEP_AXIS = ("Identity", "Dropout", "Cast", "Slice", "Split")
