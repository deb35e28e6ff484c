"""A network as blocks: stretches between places that all later values pass through."""

import torch
from helpers import Block, Net, images
from torch import nn

from qlib import QuantConfig
from qlib.methods import find_methods
from qlib.network import read
from qlib.network.blocks import blocks
from qlib.quantization import prepare


def found(network, x):
    return [(block.layers, [end.name for end in block.ends]) for block in blocks(read(network, x))]


def test_a_chain_is_cut_behind_every_layer():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    assert [layers for layers, _ in found(network, images())] == [["0"], ["5"]]
    first, last = blocks(read(network, images()))
    assert [node.target for node in first.nodes] == ["0", "2"]
    assert [node.target for node in last.nodes] == ["3", "4", "5"]


def test_a_residual_network_is_cut_from_addition_to_addition():
    assert found(Block(), images()) == [
        (["first"], ["relu"]),
        (["body", "body2", "project"], ["relu_2"]),
        (["last"], ["last"]),
    ]


def quantized(network, config, x):
    return prepare(network, config, x, find_methods("nearest")).network


def test_what_quantizes_an_end_is_part_of_the_block():
    network = quantized(Block(), QuantConfig(4, 4), images())
    cut = blocks(network)
    assert [block.layers for block in cut] == [["first"], ["body", "body2", "project"], ["last"]]
    assert [block.ends[0].all_input_nodes[0].name for block in cut] == ["relu", "relu_2", "last"]
    nodes = [node for block in cut for node in block.nodes]
    rest = [n for n in network.module.graph.nodes if n.op not in ("placeholder", "output")]
    assert nodes == rest


def test_a_skip_in_float_is_what_a_block_ends_with():
    network = quantized(Block(), QuantConfig(4, 4, quantize_skip=False, quantize_residual=False), images())
    assert [block.layers for block in blocks(network)] == [["first"], ["body", "body2", "project"], ["last"]]


def test_several_outputs_are_the_ends_of_one_block():
    network = Net(
        lambda net, x: (net.a(y := torch.relu(net.stem(x))), net.b(y)),
        stem=nn.Linear(4, 4),
        a=nn.Linear(4, 2),
        b=nn.Linear(4, 3),
    )
    (_, heads) = blocks(read(network, torch.rand(5, 4)))
    assert heads.layers == ["a", "b"] and [end.name for end in heads.ends] == ["a", "b"]


def test_what_no_layer_gave_does_not_hold_blocks_together():
    """A mask, or the input itself, is read to the end."""
    network = Net(
        lambda net, x: net.b(torch.relu(net.a(x)) * x.sum(1, keepdim=True)) + x.mean(),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 3),
    )
    assert [layers for layers, _ in found(network, torch.rand(5, 4))] == [["a"], ["b"]]
