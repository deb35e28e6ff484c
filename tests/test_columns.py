"""What a layer is given, laid out as the columns that the rows of its weight multiply."""

import pytest
import torch
from torch import nn

from qlib.network import columns
from qlib.network.operations import rows_of

LAYERS = {
    "linear": lambda: (nn.Linear(6, 5), (3, 6)),
    "linear, of tokens": lambda: (nn.Linear(6, 5), (3, 4, 6)),
    "one dimension": lambda: (nn.Conv1d(3, 4, 3, padding="same", bias=False), (3, 3, 9)),
    "two dimensions": lambda: (nn.Conv2d(4, 6, (3, 2), (2, 1), 1, dilation=(2, 1), groups=2), (3, 4, 9, 8)),
    "three dimensions": lambda: (nn.Conv3d(2, 4, (1, 2, 3), padding=1), (3, 2, 4, 4, 4)),
    "depthwise": lambda: (
        nn.Conv2d(6, 12, 3, groups=6, padding=(1, 2), padding_mode="circular"),
        (3, 6, 5, 5),
    ),
    "transposed": lambda: (
        nn.ConvTranspose2d(4, 6, (3, 2), 2, 1, output_padding=1, groups=2, dilation=2),
        (3, 4, 5, 6),
    ),
    "transposed, cropped": lambda: (nn.ConvTranspose1d(2, 3, 2, stride=3, padding=3), (3, 2, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("most", [1, 1 << 24], ids=["one at a time", "together"])
@torch.no_grad()
def test_columns_times_rows_are_the_outputs(name, most, monkeypatch):
    monkeypatch.setattr(columns, "MOST", most)
    layer, shape = LAYERS[name]()
    x = torch.randn(shape)
    y = layer(x)
    wanted = columns._by_group(layer, y)
    found = columns.columns_of(layer, x)
    weights = rows_of(layer.weight, layer).flatten(1).unflatten(0, (len(found), -1))
    torch.testing.assert_close(weights @ found.mT, wanted, rtol=1e-5, atol=1e-5)

    inputs, outputs = columns.moments(layer, [x[:2], x[2:]], [y[:2], y[2:]])
    count = found.shape[1]
    torch.testing.assert_close(inputs, (found.double().mT @ found.double()) / count, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs, weights.double() @ inputs, rtol=1e-5, atol=1e-5)
