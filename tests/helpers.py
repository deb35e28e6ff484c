"""What several tests need: small networks, foreign networks in small, and a look inside a quantized
network.
"""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch
import torchvision
from pytorchcv.model_provider import get_model
from torch import fx, nn
from torch.utils import _pytree as pytree

from qlib import QuantConfig, footprint, quantize
from qlib.methods import names, unspelled
from qlib.network.operations import WEIGHT_LAYERS, known_name, rows_of
from qlib.quantizer import Quantizer

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
MEASURED = ("base", "better-seed-2")  # networks that tests measure in a browser
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FLOAT = {"weight_bits": None, "activation_bits": None}
MODES = [(True, True), (True, False), (False, True), (False, False)]  # quantize_skip, quantize_residual


def learns(method):
    """Whether methods, as a row spells them, take many steps, which another processor rounds otherwise."""
    return bool({"adaround", "blocks", "ranges"} & set(names(unspelled(method))))


class Block(nn.Module):
    """A residual block with a projection on its skip path, pooled into a classifier: 8 x 8 images of 3
    channels.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.project = nn.Conv2d(8, 8, 1)
        self.body2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.body2(torch.relu(self.body(x))) + self.project(x))
        return self.last(self.pool(x).flatten(1))


def images(n=8, channels=3, size=8):
    return torch.randn(n, channels, size, size)


def resnet_cifar():
    """The module of the data folder that defines CIFAR-10 ResNets; functional ReLUs, padded shortcuts."""
    if not DATA.is_dir():
        pytest.skip(f"there is no folder {DATA.name!r} beside the repository")
    spec = importlib.util.spec_from_file_location("resnet_cifar", DATA / "resnet_cifar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pytorchcv(name, **options):
    net = get_model(name, num_classes=10, **options)
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)  # any image size
    return net


NETWORKS = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "torchvision resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "torchvision mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "pytorchcv resnet10": lambda: _pytorchcv("resnet10"),
    "pytorchcv mobilenetv2": lambda: _pytorchcv("mobilenetv2_wd4"),
    "resnet_cifar resnet20": lambda: resnet_cifar().resnet20(),
}


def random_network(name, x):
    """A network of `NETWORKS` with random weights, whose batch norms know the statistics of the batch
    ``x``.
    """
    torch.manual_seed(0)
    net = NETWORKS[name]()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for parameter in net.parameters():
        if not parameter.any() and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.1)
    for norm in norms:
        norm.momentum = None  # statistics of all passes in training mode, that is of one
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def quantizers(network):
    """The quantizers of a quantized network by the name of what they quantize."""
    return {m.name: m for m in network.modules() if isinstance(m, Quantizer)}


class Record(fx.Interpreter):
    """Runs a quantized network and keeps a copy of every tensor in it."""

    def __init__(self, network, x):
        super().__init__(network)
        self.tensors = {}
        with torch.no_grad():
            self.output = self.run(x)

    def run_node(self, n):
        result = super().run_node(n)
        self.tensors[n] = result.clone() if isinstance(result, torch.Tensor) else result
        return result

    def of(self, node):
        """The module that a node calls, if it does."""
        return self.module.get_submodule(node.target) if node.op == "call_module" else None

    def around(self, kind):
        """Input and output of the one module of a kind."""
        (node,) = (n for n in self.tensors if isinstance(self.of(n), kind))
        return self.tensors[node.args[0]], self.tensors[node]

    def layers(self):
        """Path and input tensor of every convolution and linear layer, in execution order."""
        for node in self.module.graph.nodes:
            if isinstance(self.of(node), (nn.Conv2d, nn.Linear)):
                yield node.target, self.tensors[node.all_input_nodes[0]]

    def input_of(self, layer):
        return dict(self.layers())[layer]

    def additions(self, residual):
        """Skip and residual operand of every addition; ``residual`` matches the paths of branches' last
        layers.
        """
        nodes = list(self.module.graph.nodes)
        for node in nodes:
            if node.op == "call_function" and node.target.__name__ == "add":
                skip, branch = sorted(node.args, key=lambda operand: nodes.index(self._behind(operand)))
                if not re.fullmatch(residual, str(self._behind(branch).target)):
                    skip, branch = branch, skip  # a projection, which runs after the residual branch
                assert re.fullmatch(residual, self._behind(branch).target)
                yield self.tensors[skip], self.tensors[branch]

    def _behind(self, node):
        """What computed a tensor, before any quantizer."""
        while isinstance(self.of(node), Quantizer):
            node = node.args[0]
        return node


def levels(tensor):
    """How many different values a tensor holds."""
    return len(tensor.unique())


def snapshot(model):
    """Everything about a model that `qlib` must leave alone."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return copy.deepcopy(model.state_dict()), [m.training for m in model.modules()], hooks


def assert_unchanged(model, before):
    """Fails where a `snapshot` of a model differs from an earlier one."""
    after = snapshot(model)
    assert before[1:] == after[1:] and before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


# Small networks, and whether they are read right

WIDE = QuantConfig(16, 16, input_bits=16, first_last_bits=None)
NARROW = QuantConfig(2, 2, input_bits=2, first_last_bits=None)
PRODUCTS = """addbmm addmm addmv addr baddbmm bmm cdist chain_matmul dot einsum inner kron linalg_vecdot matmul mm multi_dot
mv outer tensordot vecdot""".split()  # noqa: E501


class Net(nn.Module):
    """Parts, put together by a function of them and of the input."""

    def __init__(self, how, **parts):
        super().__init__()
        self.how = how
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.how(self, x)


def written(code, shape, /, **parts):
    """What makes a network and a batch of inputs, from the lines of a forward (split by ``; `` or line ends).

    It gets those of the ``parts``, functions that make them, which the lines name (``net.a``).
    """
    lines = "\n    ".join(code.replace("; ", "\n").split("\n"))
    scope = {"torch": torch, "nn": nn, "F": torch.nn.functional}
    exec(f"def how(net, x):\n    {lines}", scope)
    named = set(re.findall(r"net\.(\w+)", code))

    def make():
        torch.manual_seed(0)
        made = {name: part() for name, part in parts.items() if name in named}
        return warmed(Net(scope["how"], **made), x := torch.randn(*shape)), x

    return make


def weight(*shape):
    """What makes a parameter of the size of usual weights."""
    return lambda: nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def warmed(network, x):
    """``network`` in evaluation mode, with the statistics (of batch norms, spectral norms) of a few
    passes.
    """
    if any(
        isinstance(m, nn.modules.batchnorm._BatchNorm)
        or m._forward_pre_hooks
        or nn.utils.parametrize.is_parametrized(m)
        for m in network.modules()
    ):
        with torch.no_grad():
            for _ in range(3):
                network.train()(x.clone())
    return network.eval()


def run(network, inputs):
    """Outputs for inputs (one tensor, a tuple, a dictionary), which stay as they are; a list of tensors."""
    inputs = pytree.tree_map(torch.clone, inputs)
    with torch.no_grad():
        if isinstance(inputs, dict):
            return pytree.tree_leaves(network(**inputs))
        return pytree.tree_leaves(network(*inputs) if isinstance(inputs, tuple) else network(inputs))


def spread_error(actual, expected):
    """The largest error of several outputs, relative to how much each differs between examples."""
    pairs = [*zip(actual, expected, strict=True)]
    assert all(a.shape == e.shape and e.float().std(0).sum() > 0 for a, e in pairs)
    return max(
        ((a.float() - e.float()).norm() / (e.float() - e.float().mean(0)).norm()).item() for a, e in pairs
    )


class AtMostFour(fx.Interpreter):
    """Runs a network of 2 bits; ``problems``: weights and inputs of layers and products with more than 4
    values.
    """

    def __init__(self, network, inputs):
        super().__init__(network)
        self.problems = []
        self.seen = 0
        names = [n.target for n in network.graph.nodes if n.op == "placeholder"]
        inputs = [inputs[name] for name in names] if isinstance(inputs, dict) else inputs
        with torch.no_grad():
            self.run(
                *pytree.tree_map(torch.clone, inputs if isinstance(inputs, (tuple, list)) else (inputs,))
            )

    def run_node(self, n):
        layer = self.module.get_submodule(n.target) if n.op == "call_module" else None
        tensors = [(i, self.env[i]) for i in n.all_input_nodes if isinstance(self.env.get(i), torch.Tensor)]
        product = layer is None and n.op.startswith("call") and known_name(n) in PRODUCTS
        if n.meta.get("float") or not (product or isinstance(layer, WEIGHT_LAYERS)):
            return super().run_node(n)
        if layer is not None:
            tensors += [(f"weight {i}", row) for i, row in enumerate(rows_of(layer.weight.detach(), layer))]
        self.seen += 1
        for what, tensor in tensors:
            if tensor.is_floating_point() and levels(tensor) > 4:
                self.problems.append(f"{what} of {n} holds {levels(tensor)} values")
        return super().run_node(n)


def at_most_four(network, inputs, config=NARROW):
    """Fails where ``network``, quantized to 2 bits, has more than 4 values in a weight's row or a layer's or
    product's input.
    """
    seen = AtMostFour(quantize(network, config, [(inputs, None)]), inputs)
    assert seen.seen and not seen.problems, seen.problems


def weight_elements(network):
    """How many weights layers, attention, and parameters named ``w...`` hold; each tensor once."""
    found = {}
    for module in network.modules():
        given = [module.weight] if isinstance(module, WEIGHT_LAYERS) else []
        if isinstance(module, nn.MultiheadAttention):
            given += [getattr(module, f"{name}_proj_weight") for name in ("in", "q", "k", "v")]
        given += [
            p for name, p in module.named_parameters(recurse=False) if type(module) is Net and name[0] == "w"
        ]
        found |= {
            (w.data_ptr() if isinstance(w, nn.Parameter) else id(module)): w.numel()
            for w in given
            if w is not None
        }
    return sum(found.values())


def right(network, inputs, elements=None, tolerance=1e-3, **options):
    """Fails where a network is not read right: at 16 bits everywhere its outputs must be close to those in
    float, at 2 bits its weights and the inputs of layers hold 4 values, and the footprint counts them;
    ``network`` and ``inputs`` stay bit-equal.

    ``elements``: how many weights are quantized, where `weight_elements` cannot tell. ``options``: of the
    configuration.
    """
    expected = run(network, inputs)
    before = snapshot(network)
    given = pytree.tree_map(torch.clone, inputs)
    quantized = quantize(network, WIDE.replace(**options), [(inputs, None)])
    assert (error := spread_error(run(quantized, inputs), expected)) < tolerance, (
        f"with 16 bits the error is {error:.2g}"
    )
    at_most_four(network, inputs, narrow := NARROW.replace(**options))
    layers = [layer for layer in footprint(network, inputs, narrow).layers if layer.kind != "left in float"]
    assert {layer.weight_bits for layer in layers if layer.weight_elements} == {2}
    elements = weight_elements(network) if elements is None else elements
    assert sum(layer.weight_elements for layer in layers) == elements
    assert_unchanged(network, before)
    assert all(map(torch.equal, pytree.tree_leaves(inputs), pytree.tree_leaves(given)))
    assert all(map(torch.equal, run(network, inputs), expected))


def refused(words, network, inputs, config=WIDE):
    """Fails unless a network is refused by one line that fits the pattern ``words`` and offers only modules
    that there are to be left in float; the network stays as it is.
    """
    before = snapshot(network)
    with pytest.raises(ValueError, match=words) as caught:
        quantize(network, config, [(inputs, None)])
    assert "\n" not in str(caught.value)
    modules = ["its name", *(name for name, _ in network.named_modules(remove_duplicate=False))]
    assert all(name in modules for name in re.findall(r"float_layers=\('([^']*)',\)", str(caught.value)))
    assert_unchanged(network, before)
