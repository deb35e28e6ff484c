"""Methods of qlib against Brevitas' on the same grids and the same data: the squared error of what a layer
and a small network give.

Brevitas' own classes do the work on one side: its GPTQ, its bias correction, its equalization of a graph, and
its learned rounding (hard sigmoid, decay of the temperature, drawn batches). What differs is said in
`benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qlib import QuantConfig, load_bench, quantize
from qlib.affine import Grid, fake_quantize
from qlib.methods import Method, Turn, Work
from qlib.methods.equalize import Equalize
from qlib.network import read
from qlib.network.operations import data_of, rows_of
from qlib.network.steps import first_calls

warnings.filterwarnings("ignore")


@dataclass(frozen=True)
class Theirs(Method):
    """Layers in turn as for ours, each rounded by a function of theirs."""

    rounded: Callable[[Turn, int], Tensor] = None
    steps: int = 0

    def apply(self, work: Work) -> None:
        with torch.no_grad():
            for turn in work.in_turn("quantized"):
                work.put_weight(turn.name, self.rounded(turn, self.steps))


@dataclass(frozen=True)
class TheirBias(Method):
    """Their bias correction: every layer is given what the float network gives, and corrected at the end."""

    stage: ClassVar[str] = "after"

    def apply(self, work: Work) -> None:
        from brevitas.graph.calibrate import _BiasCorrection

        correction = _BiasCorrection(layers=(nn.Conv2d, nn.Linear))
        module = work.network.module
        with torch.no_grad():
            for name, node, runs in first_calls(work.floats, work.batches, set(work.floats.layers)):
                layer = module.get_submodule(name)
                correction.iterations[name] = len(runs)
                for run in runs:
                    correction.collect_float_mean(layer, run.env[node], name)
                    correction.compute_correct_bias(layer, layer(run.env[data_of(node)]), name)
            correction.apply_correction(module)


def gptq(turn: Turn, steps: int) -> Tensor:
    from brevitas.graph.gptq import GPTQ

    rows = turn.rows.clone()
    grid = Grid(*(part if part is None else part.expand_as(rows).flatten(1) for part in turn.grid))

    class OnGrid(GPTQ):
        """Theirs, with the values of our grid."""

        def get_quant_weights(
            self, i: int, i1: int, permutation_list: list[Tensor], **options: Any
        ) -> Tensor:
            shape = (self.groups, -1, self.columns)
            weight = fake_quantize(self.layer.weight.data.flatten(1), grid).reshape(shape)
            return torch.stack(
                [w[:, order[i1 + i]] for w, order in zip(weight, permutation_list, strict=True)]
            )

    layer = _copy(turn)
    optimizer = OnGrid(layer, turn.name, True, 1, False, num_blocks=1)
    for x in turn.given:
        optimizer.compute_iterative_covariance(layer, (x,), type("Layers", (), {"layer_names": set()}))
    layer.weight_quant = type("Weight", (), {"requires_quant_input": False})
    optimizer.single_layer_update()
    return fake_quantize(layer.weight.data, turn.grid)


def learned(turn: Turn, steps: int) -> Tensor:
    from brevitas.core.function_wrapper.learned_round import LearnedRoundHardSigmoid, LearnedRoundSte
    from brevitas_examples.common.learned_round.learned_round_method import LinearTempDecay

    layer, grid = _copy(turn), turn.grid
    part = turn.rows / grid.scale
    start = -torch.log(1.2 / (part - part.floor() + 0.1) - 1)
    rounding = LearnedRoundSte(LearnedRoundHardSigmoid(), start, nn.Identity())
    decay = LinearTempDecay(steps, 0.2, 20, 2)
    adam = torch.optim.Adam(rounding.parameters(), 0.01)
    given, wanted = torch.cat(turn.given), torch.cat(turn.wanted)
    generator = torch.Generator().manual_seed(0)

    def weight() -> Tensor:
        codes = rounding(part) + grid.zero_point
        return (codes.clamp(grid.code_min, grid.code_max) - grid.zero_point) * grid.scale

    with torch.enable_grad():
        for step in range(steps):
            some = torch.randint(len(given), (32,), generator=generator)
            found = torch.func.functional_call(layer, {"weight": weight()}, (given[some],))
            loss = (found - wanted[some]).square().sum(1).mean()
            if step >= 0.2 * steps:
                up = rounding.learned_round_impl(rounding.value)
                loss = loss + 0.01 * (1 - (2 * (up - 0.5).abs()).pow(decay(step))).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
    rounding.eval()
    return weight()


def _copy(turn: Turn) -> nn.Module:
    """The layer in float, apart from the network."""
    layer = turn.layer
    options = {k: getattr(layer, k) for k in ("stride", "padding", "dilation", "groups")}
    copy = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, bias=True, **options)
    copy.weight.data = turn.rows.clone()
    copy.bias.data = layer.bias.data.clone()
    return copy.requires_grad_(False)


def ranges(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of all layers, the largest magnitude of each output channel after either's equalization, without
    biases.
    """
    from brevitas.graph.equalize import EqualizeGraph

    config = QuantConfig(8, 8)
    ours = quantize(network, config, x, Equalize(absorb=False, sweeps=200))
    floats = read(network, x)
    theirs = EqualizeGraph(iterations=200, threshold=1e-6, merge_bias=False, scale_computation_type="maxabs")
    module = theirs.apply(floats.module)
    module = module[0] if isinstance(module, tuple) else module
    both = []
    for model in (ours, module):
        layers = [model.get_submodule(name) for name in floats.layers]
        both.append(torch.cat([rows_of(m.weight.data, m).abs().flatten(1).amax(1) for m in layers]))
    return both[0], both[1]


def error(network: nn.Module, config: QuantConfig, x: Tensor, method: Any) -> float:
    """The squared error of outputs over the energy of the float network's."""
    with torch.no_grad():
        expected = network(x)
        return (
            (quantize(network, config, x, method)(x) - expected).square().sum() / expected.square().sum()
        ).item()


def parts(images: int) -> dict[str, tuple[nn.Module, Tensor]]:
    """A layer, and a small network, of the bench `digits`, with what they are given."""
    bench = load_bench("digits")
    features = bench.models["base"].eval().features
    x = torch.cat([batch for batch, _ in bench.calibration(images)])
    body = features.stage1.unit1.body
    with torch.no_grad():
        before = body.conv1(features.init_block(x))
    return {
        "one layer": (nn.Sequential(body.conv2.conv, body.conv2.bn), before),
        "11 layers": (nn.Sequential(features.init_block, features.stage1), x),
    }


def run(images: int, steps: int) -> dict[str, tuple[float, float]]:
    """Print the table; by line, the errors of ours and of theirs."""
    found: dict[str, tuple[float, float]] = {}
    config = QuantConfig(3, None, first_last_bits=None)
    methods = {
        "GPTQ": ("gptq", Theirs(gptq)),
        "bias correction": ("bias", TheirBias()),
        "learned rounding": ({"name": "adaround", "steps": steps}, Theirs(learned, steps)),
    }
    print(f"{'':34}{'ours':>12}{'theirs':>12}{'ratio':>8}")
    networks = parts(images)
    for part, (network, x) in networks.items():
        for name, (ours, theirs) in {"nearest": ("nearest", "nearest"), **methods}.items():
            found[f"{name}, {part}"] = error(network, config, x, ours), error(network, config, x, theirs)
    for label, (ours, theirs) in found.items():
        print(f"{label:34}{ours:12.5f}{theirs:12.5f}{ours / theirs:8.3f}")
    ours, theirs = ranges(*networks["11 layers"])
    found["equalization"] = (ours / theirs - 1).abs().max().item(), 0.0
    print(f"equalization: ranges of channels differ by {found['equalization'][0]:.2%} at most")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--images", type=int, default=256, help="of calibration, on which errors are measured"
    )
    parser.add_argument("--steps", type=int, default=1000, help="of learned rounding")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run(arguments.images, arguments.steps)
