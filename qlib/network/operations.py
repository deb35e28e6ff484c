"""What the operations of a network are to a quantizer: one table by kind, and the questions that are answered
from it.

An operation is known by the class of its module, or by the name of the function of torch or method of a
tensor that it calls. What is not in the table computes in float, and may hold no weights of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, fx, nn

from .attention import image_of_windows, masked, windows
from .language import causal, mean_of_tokens, rotary
from .nodes import of_rank, overwritten, single


class Kind(str, Enum):
    """What an operation is to a quantizer."""

    INPUT = "input"
    WEIGHT = "weight layer"
    TABLE = "lookup table"
    ADD = "addition"
    MULTIPLY = "multiplication"
    CONCAT = "concatenation"
    PRODUCT = "matrix product"
    POOL = "average pooling"
    KEEPS_GRID = "keeps its grid"
    ACTIVATION = "activation function"
    ROTATION = "rotation"
    OTHER = "float"


@dataclass(frozen=True)
class Known:
    """A row of the table: the classes of modules of a kind, and its functions, by name where they are
    torch's.
    """

    modules: tuple[type[nn.Module], ...] = ()
    names: str = ""
    functions: tuple[Callable, ...] = ()


TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
WEIGHT_LAYERS = (*CONVOLUTIONS, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORMS = (
    *BATCH_NORMS,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)

TABLE: dict[Kind, Known] = {
    # Functions of this row get their weights as arguments: those with parameters become layers, others are
    # refused.
    Kind.WEIGHT: Known(
        WEIGHT_LAYERS,
        "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear bilinear "
        "embedding embedding_bag multi_head_attention_forward",
    ),
    Kind.TABLE: Known((nn.Embedding,)),
    Kind.ADD: Known(names="add"),
    Kind.MULTIPLY: Known(names="mul multiply"),
    Kind.CONCAT: Known(names="cat concat concatenate", functions=(overwritten,)),
    Kind.PRODUCT: Known(
        names="matmul bmm mm einsum baddbmm addbmm addmm addmv addr mv dot vdot vecdot inner outer ger "
        "tensordot multi_dot chain_matmul matrix_power cdist kron"
    ),
    Kind.POOL: Known(
        (
            nn.AvgPool1d,
            nn.AvgPool2d,
            nn.AvgPool3d,
            nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
        ),
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean",
    ),
    Kind.KEEPS_GRID: Known(
        (
            nn.MaxPool1d,
            nn.MaxPool2d,
            nn.MaxPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
            nn.modules.padding._ConstantPadNd,
            nn.modules.padding._ReflectionPadNd,
            nn.modules.padding._ReplicationPadNd,
            nn.modules.dropout._DropoutNd,
            nn.Flatten,
            nn.Unflatten,
            nn.Identity,
            nn.PixelShuffle,
            nn.PixelUnshuffle,
            nn.ChannelShuffle,
        ),
        "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d boolean_dispatch pad "
        "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout "
        "stochastic_depth drop_block2d flatten view reshape permute transpose squeeze unsqueeze chunk split "
        "tensor_split narrow select getitem contiguous clone detach expand pixel_shuffle pixel_unshuffle "
        "channel_shuffle t T mT movedim moveaxis swapaxes swapdims unflatten roll flip amax amin max min "
        "unbind tile repeat repeat_interleave _patch_merging_pad",
        (windows, image_of_windows, single, of_rank),
    ),
    Kind.ACTIVATION: Known(
        (
            nn.ReLU,
            nn.ReLU6,
            nn.LeakyReLU,
            nn.ELU,
            nn.SELU,
            nn.CELU,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
            nn.Hardswish,
            nn.Hardsigmoid,
            nn.Hardtanh,
            nn.Sigmoid,
            nn.Tanh,
            nn.Softplus,
            nn.PReLU,
        ),
        "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh "
        "softplus prelu",
    ),
    # Known to compute in float; parameters among their arguments are no weights of a product.
    Kind.OTHER: Known(
        NORMS,
        "layer_norm group_norm batch_norm instance_norm rms_norm normalize softmax log_softmax sub subtract "
        "rsub div divide truediv floordiv true_divide pow exp exp2 log sqrt rsqrt reciprocal abs neg sin cos "
        "clamp clip clamp_min clamp_max where maximum minimum masked_fill masked_select gather "
        "take_along_dim index_select index_add scatter take expand_as view_as reshape_as type_as to float "
        "double half stack hstack vstack broadcast_to lerp addcmul addcdiv eq ne lt le gt ge and_ or_ xor "
        "logical_and logical_or logical_not sum prod cumsum var std norm interpolate grid_sample fold unfold "
        "size dim numel shape ndim dtype device is_cuda copy_ fill_ zeros_like ones_like",
        (masked, causal, rotary, mean_of_tokens),
    ),
}
SHAPES = frozenset("size dim numel shape ndim dtype device is_cuda".split())
VIEWS = frozenset(  # what they give may be the same memory as what they got
    "flatten view reshape permute transpose squeeze unsqueeze chunk split tensor_split narrow select getitem "
    "contiguous detach expand t T mT movedim moveaxis swapaxes swapdims unflatten unbind diagonal dropout to "
    "float data hsplit vsplit dsplit view_as type_as adjoint real ravel pos positive reshape_as expand_as "
    "broadcast_to split_with_sizes unsafe_chunk unsafe_split as_strided sum_to_size mH cpu dropout1d "
    "dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
)
TUPLES = frozenset("chunk split tensor_split unbind".split())  # keep the grid, and give several tensors
_BY_NAME = {name: kind for kind, known in TABLE.items() for name in known.names.split()}
_BY_FUNCTION = {function: kind for kind, known in TABLE.items() for function in known.functions}
# Whose functions the names are
_TRUSTED = ("torch", "torchvision", "_operator", "operator", "builtins", "math")


def layer_of(node: fx.Node, module: nn.Module) -> nn.Module | None:
    """The module that a node calls, if it does."""
    return operator.attrgetter(node.target)(module) if node.op == "call_module" else None


def label(node: fx.Node) -> str:
    """What a node calls, in a word."""
    if node.op == "call_method":
        return node.target
    if node.op != "call_function":
        return ""
    if node.target is getattr:  # x.shape, x.mT
        return node.args[1]
    if isinstance(node.target, torch._ops.OpOverload):  # torch.ops.aten.mm.default
        return node.target._schema.name.split("::")[-1]
    return getattr(node.target, "__name__", str(node.target))


def known_name(node: fx.Node) -> str:
    """The name under which the table may have a function or method; empty for functions that torch does not
    define.
    """
    if node.op == "call_function" and not _is_trusted(node.target):
        return ""
    return label(node).removeprefix("linalg_")


def _is_trusted(function: Callable) -> bool:
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(function).startswith("aten")
    return (getattr(function, "__module__", None) or "torch").split(".")[0] in _TRUSTED


def is_known(node: fx.Node) -> bool:
    """Whether the table has the function or method that a node calls."""
    return known_name(node) in _BY_NAME or node.target in _BY_FUNCTION


def is_instance(layer: nn.Module | None, classes: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is of one of ``classes`` and computes what that class does."""
    return layer is not None and any(
        isinstance(layer, c) and type(layer).forward is c.forward for c in classes
    )


def kind_by_table(node: fx.Node, module: nn.Module) -> Kind:
    """The row of the table that a node falls into, its arguments aside."""
    if node.op == "placeholder":
        return Kind.INPUT
    if (layer := layer_of(node, module)) is not None:
        found = next((kind for kind, known in TABLE.items() if isinstance(layer, known.modules)), Kind.OTHER)
        if type(layer).__name__ == "StochasticDepth" and _is_trusted(type(layer)):
            return Kind.KEEPS_GRID
        known = TABLE[found].modules
        changed = found in (Kind.WEIGHT, Kind.TABLE) and not is_instance(layer, known)
        return Kind.OTHER if changed else found
    return _BY_FUNCTION.get(node.target) or _BY_NAME.get(known_name(node), Kind.OTHER)


def kind_of(node: fx.Node, module: nn.Module, aside: set[fx.Node]) -> Kind:
    """What a node is to a quantizer. ``aside``: the nodes that hold shapes, or follow from parameters
    alone.
    """
    kind = kind_by_table(node, module)
    layer = layer_of(node, module)
    if kind is Kind.ACTIVATION:  # one that follows no layer
        return Kind.KEEPS_GRID if is_relu(node, module) else Kind.OTHER
    if kind in (Kind.ADD, Kind.MULTIPLY):
        tensors = all(isinstance(a, fx.Node) and a not in aside for a in operands(node))
        return kind if tensors else Kind.OTHER  # with a constant
    if kind is Kind.PRODUCT and any(n in aside for n in node.all_input_nodes):
        return Kind.OTHER
    if kind is Kind.POOL and not _averages_within_channels(node, layer):
        return Kind.OTHER
    if kind is Kind.KEEPS_GRID and (data_of(node) in aside or not _keeps_grid(node, layer)):
        return Kind.OTHER
    return kind


def data_of(node: fx.Node) -> fx.Node | None:
    """The tensor that a view, pooling, padding or the like works on."""
    first = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensor"))
    return first if isinstance(first, fx.Node) else next(iter(node.all_input_nodes), None)


def operands(node: fx.Node) -> list[object]:
    """The two operands of an addition or multiplication, be they given by position or by name."""
    return [*node.args, *node.kwargs.values()][:2]


def argument(node: fx.Node, position: int, name: str, default: object = None) -> object:
    """An argument of a call, be it given by position or by name."""
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def _averages_within_channels(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether a pooling gives means, and means of values that share a channel."""
    if layer is not None:
        return getattr(layer, "divisor_override", None) is None
    if known_name(node) != "mean":
        return argument(node, 6, "divisor_override") is None
    axes = argument(node, 1, "dim")
    if isinstance(axes, (list, tuple)):
        return bool(axes) and all(isinstance(axis, int) and axis not in (0, 1) for axis in axes)
    return axes in (-1, 2, 3)


def _keeps_grid(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether an operation that as a rule gives values of its input does so with these arguments."""
    if isinstance(layer, nn.modules.padding._ConstantPadNd):
        return layer.value == 0
    name = known_name(node)
    if name == "pad":
        return argument(node, 2, "mode", "constant") != "constant" or argument(node, 3, "value") in (None, 0)
    if name in ("max", "min"):  # of two tensors: two grids
        return not isinstance(argument(node, 1, "other"), fx.Node)
    return True


def is_activation(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node is an activation function, such as follows a layer directly."""
    return kind_by_table(node, module) is Kind.ACTIVATION


def is_relu(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node is a ReLU without an upper end."""
    layer = layer_of(node, module)
    return known_name(node) == "relu" if layer is None else type(layer) is nn.ReLU


def moves_channels(node: fx.Node, module: nn.Module) -> bool:
    """Whether an operation that keeps values may move them to other channels, or other axes."""
    layer = layer_of(node, module)
    if layer is not None:
        moves = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
        return isinstance(layer, moves)
    stay = ("contiguous", "detach", "dropout", "data")
    return known_name(node) in VIEWS.difference(stay) | {
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "flip",
        "roll",
    }


def holds_shape(node: fx.Node) -> bool:
    """Whether a node reads (part of) a tensor's shape, type or place."""
    return known_name(node) in SHAPES


def constant(module: nn.Module, node: fx.Node) -> Tensor:
    """The parameter or buffer of a ``get_attr`` node."""
    return operator.attrgetter(node.target)(module)


def same_tensor(tensor: Tensor) -> tuple:
    """Equal for tensors that are the same memory, read in the same way."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def rows_of(weight: Tensor, layer: nn.Module) -> Tensor:
    """``weight`` with output channels as its first axis, as most layers have it; transposed convolutions have
    inputs first.
    """
    if not isinstance(layer, TRANSPOSED):
        return weight
    groups = layer.groups
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def weight_of_rows(rows: Tensor, layer: nn.Module) -> Tensor:
    """The reverse of `rows_of`."""
    if not isinstance(layer, TRANSPOSED):
        return rows
    return rows.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
