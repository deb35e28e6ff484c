"""What several tests need: small networks, foreign networks in small, and a look inside a quantized network."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import torch
import torchvision
from pytorchcv.model_provider import get_model
from torch import fx, nn

from qlib.quantizer import Quantizer

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FLOAT = {"weight_bits": None, "activation_bits": None}
MODES = [(True, True), (True, False), (False, True), (False, False)]  # quantize_skip, quantize_residual


class Block(nn.Module):
    """A residual block with a projection on its skip path, pooled into a classifier: 8 x 8 images of 3 channels."""

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
    """A network of `NETWORKS` with random weights, whose batch norms know the statistics of the batch ``x``."""
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
        """Skip and residual operand of every addition; ``residual`` matches the paths of branches' last layers."""
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
