"""`quantize`: from a float network, a `QuantConfig` and calibration batches to the quantized network.

The result simulates integer inference in float32: weights hold the values of their codes, and a `Quantizer`
stands behind every tensor that `qlib.placement` says is quantized. Biases stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from .affine import dequantize
from .affine import quantize as quantize_values
from .config import MAX_BITS, QuantConfig
from .methods import Method, Work, find_methods
from .methods.nearest import Nearest
from .names import suggestion
from .network import Kind, Network, Operation, evaluation_copy, read, verify
from .network.inputs import copied, device_of, examples_in, first, inputs_of, on, one_line, run
from .network.nodes import count_examples
from .network.operations import is_relu, known_name, rows_of
from .network.rewrite import free_name
from .network.verification import EXAMPLES, examples_first
from .placement import Placement, place
from .quantizer import OnCodes, Quantizer, waiting

MADE_UNDER = "quantized_under"  # in the meta of a quantized network, its configuration


def quantize(
    model: nn.Module | Network,
    config: QuantConfig,
    calibration: Iterable | Tensor | None = None,
    method: Any = "nearest",
    ranges: Mapping[str, tuple[float, float]] | None = None,
    rounding_seed: int = 0,
) -> nn.Module:
    """A quantized copy of ``model``, in evaluation mode; ``model`` itself is left as it is.

    Parameters
    ----------
    model
        Any network that `torch.fx` can trace, with convolution or linear layers, or one that has been read
        (`qlib.network.read`) and is to be quantized several times.
    config
        The choices. With both bits ``None`` the result is an unchanged copy; otherwise (and of a network that
        was read before) batch norm is folded first.
    calibration
        An iterable (a generator will do) of input batches ``(n, ...)`` or of (inputs, labels) pairs, or one
        batch; needed where activations have static ranges, which come from one pass over it, and by methods
        that look at data. Several inputs are a pair ``((a, b), None)``, or a dictionary by name. Inputs that
        are no floats are never quantized.
    method
        How codes and ranges are found: a name such as ``"bias"``, an instance (`qlib.methods`),
        ``FILE.py:NAME``, or a list of such, each at its stage.
    ranges
        (low, high) by tensor name, in the place of those that calibration finds (`LearnedBitwidths.ranges`).
    rounding_seed
        With another than 0 the ranges of every layer's weights are widened by a factor that it draws, between
        1 and 1.02: all weights fall differently between their codes, as good as before. What two
        configurations differ by, over several of these, is not the luck of one rounding.

    Returns
    -------
    nn.Module
        A network that computes in float32 what integers would give. Where there is calibration data, what was
        read of ``model`` has been compared with it (`qlib.network.verify`); without, as for weights alone,
        nothing has.

    Raises
    ------
    ValueError
        Naming the layer, tensor or batch: the model cannot be traced, was read wrongly or holds no weights;
        the configuration names a layer that is not there; calibration is empty, does not fit the network, or
        is not finite; or the method cannot do it.
    """
    if not isinstance(config, QuantConfig):
        raise ValueError(f"config must be a QuantConfig, got {type(config).__name__}")
    methods = find_methods(method)
    if config.in_float:
        methods = find_methods("nearest")  # nothing is rounded, so no method has anything to mend
    if config.in_float and not isinstance(model, Network):
        return evaluation_copy(model)
    work = prepare(model, config, calibration, methods, ranges, rounding_seed)
    for name, grid in work.grids.items():
        work.network.module.get_submodule(name).weight_grid = grid  # what it is saved with
    work.network.module.meta[MADE_UNDER] = config
    save_passes(work.network, work.quantizers)
    return work.network.module


def weights_first(
    model: nn.Module | Network,
    config: QuantConfig,
    calibration: Iterable | Tensor | None = None,
    method: Any = "nearest",
    rounding_seed: int = 0,
) -> Network:
    """A network whose weights are quantized while all activations are in float, which is what methods see.
    `quantize` gives it quantizers under ``config.of_side("activation")``, as often as is wanted; ranges are
    then found with weights quantized.

    Parameters and errors are those of `quantize`.
    """
    only = config.of_side("weight")
    return prepare(model, only, calibration, find_methods(method), rounding_seed=rounding_seed).network


def prepare(
    model: nn.Module | Network,
    config: QuantConfig,
    calibration: Iterable | Tensor | None,
    methods: Sequence[Method],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    rounding_seed: int = 0,
) -> Work:
    """All steps of `quantize` but the last, which saves passes over memory."""
    batches = inputs_of(calibration)
    network = read_verified(model, config, batches)
    work = Work(config, network, place(network, config), batches, rounding_seed=rounding_seed)
    for method in methods:
        if method.stage == "before ranges":
            apply(method, work)
    if any(type(method) is not Nearest for method in methods):
        work.floats = network.copy()
    work.quantizers = insert_quantizers(network, config, work.placement)
    round_and_calibrate(work, methods, ranges)
    for method in methods:
        if method.stage == "after":
            apply(method, work)
    if config.activation_dynamic and work.quantizers:
        _check_examples(model.module if isinstance(model, Network) else model, network, batches)
    return work


def round_and_calibrate(
    work: Work, methods: Sequence[Method], ranges: Mapping[str, tuple[float, float]] | None = None
) -> None:
    """Round weights and fix ranges: ranges first where they are found with layers upstream in float."""
    (rounding,) = [method for method in methods if method.stage == "rounding"]
    if work.config.calibration_upstream == "quantized":
        with waiting(work.quantizers.values()):
            _round(work, rounding)
    calibrate(work.network, work.quantizers, work.batches, ranges)
    if work.config.calibration_upstream == "float":
        _round(work, rounding)


def _round(work: Work, rounding: Method) -> None:
    """Refuses a method that leaves weights in float, which would count at their bits."""
    apply(rounding, work)
    for name, bits in work.placement.weight_bits.items():
        if name not in work.grids and (isinstance(bits, tuple) or bits <= MAX_BITS):
            raise ValueError(
                f"the method {type(rounding).__name__} gave the weights of {name!r} no codes: it has to go "
                "through work.weights()"
            )
    if type(rounding) is not Nearest:
        _refuse_other_values(work, rounding)


def _refuse_other_values(work: Work, rounding: Method) -> None:
    """Weights that are no values of their grid are not what so many bits can hold."""
    for name, grid in work.grids.items():
        layer = work.network.module.get_submodule(name)
        rows = rows_of(layer.weight.data, layer)
        if not torch.allclose(rows, dequantize(quantize_values(rows, grid), grid), rtol=1e-4, atol=1e-7):
            raise ValueError(
                f"the method {type(rounding).__name__} gave {name!r} weights that its grid does not have: "
                "work.put_weight takes the values of codes, (code - grid.zero_point) * grid.scale"
            )


def apply(method: Method, work: Work) -> None:
    """Apply a method. A mistake in it, such as a ``KeyError``, is a ``ValueError`` that names it: a run that
    cannot be carried out, and not the end of a recording.
    """
    try:
        method.apply(work)
    except (LookupError, TypeError, AttributeError, NameError, AssertionError) as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"the method {type(method).__name__} fails: {said}") from error


def read_verified(model: nn.Module | Network, config: QuantConfig, batches: list[Any]) -> Network:
    """``model``, read, and where there is data compared with what was given; a copy of it, if it has been
    read before.
    """
    if isinstance(model, nn.Module):
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                raise ValueError(
                    f"{name} is on the device meta, where tensors have no values: load the weights first"
                )
    network = (
        model
        if isinstance(model, Network)
        else read(model, batches[0] if batches else None, config.float_layers)
    )
    if batches and network.unverified is not None:
        verify(network.unverified, network, batches[0], "calibration batch 0", network.float_layers)
    return read(network, None, config.float_layers) if network is model else network


def _check_examples(model: nn.Module, network: Network, batches: list[Any]) -> None:
    """Refuse a network with a range for each example where these are not along the first axis of every
    tensor.
    """
    if not batches:
        if network.moves_examples:
            raise ValueError(
                f"activation_dynamic finds a range for each example, and {network.moves_examples} may move "
                "or mix examples: pass one batch as calibration, so that this can be looked at, or use "
                "static ranges"
            )
        return
    if network.moves_examples and not examples_first(model, batches[0]):
        raise ValueError(
            "activation_dynamic finds a range for each example, but along the first axis of its inputs this "
            "network does not treat examples one by one: use static ranges"
        )
    # Several counts: a first axis of that length by chance is of another next time
    for count in {1, min(EXAMPLES - 1, examples_in(batches[0]))}:
        with torch.no_grad():
            some = copied(on(first(batches[0], count), device_of(network.module)))
            run(network.module, some, f"{count} example(s)")


def insert_quantizers(
    network: Network, config: QuantConfig, placement: Placement
) -> dict[fx.Node, Quantizer]:
    """Put quantizers without a grid yet into ``network``, in place, where ``placement`` wants them; by node
    that they follow.
    """
    module = network.module
    quantizers = {
        node: Quantizer(config, name, bits, _axis_of_channels(network, config, node))
        for node, (name, bits) in placement.quantizers.items()
    }
    examples = [_count_of_examples(module)] if config.activation_dynamic and quantizers else []
    for node, quantizer in quantizers.items():
        inserted = _insert_after(module, node, quantizer, *examples)
        for consumer in list(node.users):
            if (consumer, node) in placement.takes_quantized:
                consumer.replace_input_with(node, inserted)
    for pool, source in placement.integer_means.items():
        _average_codes(module, pool, source, quantizers[source])
    module.recompile()
    return quantizers


def _axis_of_channels(network: Network, config: QuantConfig, node: fx.Node) -> int | None:
    """The axis of channels behind a node, where it can be told. Heads of attention are no channels, so a
    token has the last axis, but for images.
    """
    axis = network.channels.get(node)
    inside = node.op != "placeholder" and config.activation_granularity == "per_token"
    return -1 if axis is None and inside else axis


def _count_of_examples(module: fx.GraphModule) -> fx.Node:
    """A node that says how many examples there are, before all that computes."""
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    with module.graph.inserting_after(inputs[-1]):
        return module.graph.call_function(count_examples, (inputs[0],))


def _insert_after(module: fx.GraphModule, node: fx.Node, layer: nn.Module, *more: fx.Node) -> fx.Node:
    name = free_name(module, f"{type(layer).__name__.lower()}_{node.name}")
    module.add_submodule(name, layer)
    with module.graph.inserting_after(max((node, *more))):  # nodes compare by their place
        return module.graph.call_module(name, (node, *more))


def _average_codes(module: fx.GraphModule, pool: fx.Node, before: fx.Node, source: Quantizer) -> None:
    """Let ``pool`` average integer codes and round, on the grid of ``source``, which follows ``before``."""
    producer = pool.all_input_nodes[0]
    consumers = list(pool.users)
    dynamic = [before] if source.config.activation_dynamic else []
    codes = _insert_after(module, producer, OnCodes(source, back=False), *dynamic)
    pool.replace_input_with(producer, codes)
    values = _insert_after(module, pool, OnCodes(source, back=True), *dynamic)
    for consumer in consumers:
        consumer.replace_input_with(pool, values)


def calibrate(
    network: Network,
    quantizers: Mapping[fx.Node, Quantizer],
    batches: list[Any],
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Fix the grids of quantizers with static ranges by one pass over inputs (`inputs_of`), or as ``ranges``
    say.
    """
    waiting = [q for q in quantizers.values() if not q.config.activation_dynamic]
    if ranges:
        names = [q.name for q in waiting]
        for name in ranges:
            if name not in names:
                raise ValueError(
                    f"ranges: no tensor {name!r} has a static range here{suggestion(name, names)}"
                )
    if not waiting:
        return
    if not batches:
        raise ValueError(
            "calibration is empty, but static activation ranges need data: pass at least one batch, or set "
            "activation_dynamic=True or activation_bits=None"
        )
    for quantizer in waiting:
        quantizer.start()
    device = device_of(network.module)
    examples = sum(map(examples_in, batches))
    spared = any(o.in_float for o in network.operations.values())  # which may work in place
    with torch.inference_mode():
        for i, batch in enumerate(batches):
            for quantizer in waiting:
                quantizer.share = (examples_in(batch), examples)
            batch = on(batch, device)
            run(network.module, copied(batch) if spared else batch, f"calibration batch {i}")
    with torch.no_grad():
        for quantizer in waiting:
            quantizer.finish((ranges or {}).get(quantizer.name))


def gives_new_tensor(operation: Operation) -> bool:
    """Whether an operation's result is memory that nothing else is: a view it never is."""
    kinds = (Kind.WEIGHT, Kind.ADD, Kind.MULTIPLY, Kind.CONCAT, Kind.PRODUCT, Kind.POOL)
    return operation.kind in kinds and known_name(operation.node) != "einsum"  # which may only permute axes


def save_passes(network: Network, quantizers: dict[fx.Node, Quantizer]) -> None:
    """Let quantizers overwrite inputs that nobody else reads, and do the work of a ReLU right before them by
    their clamp.
    """
    module = network.module
    graph = network.module.graph
    fresh = {o.result for o in network.operations.values() if gives_new_tensor(o)}
    for node, quantizer in quantizers.items():
        if node not in fresh or len(node.users) > 1:
            continue
        quantizer.in_place = True
        before = node.all_input_nodes[0]
        static = not quantizer.config.activation_dynamic and quantizer.clip is None
        if is_relu(node, module) and len(before.users) == 1 and before in network.operations and static:
            quantizer.rectifies = True
            node.replace_all_uses_with(before)
            graph.erase_node(node)
    for quantizer in quantizers.values():
        if not quantizer.config.activation_dynamic and quantizer.scale is not None:
            # Now rather than in the first pass, so that the network can be compiled at once
            quantizer.prepare()
    module.delete_all_unused_submodules()
    module.recompile()
