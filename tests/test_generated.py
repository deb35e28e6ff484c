"""What a language model writes is shown as it is, and each choice is one that writes it."""

import html

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlib import QuantConfig, quantize
from qlib.benches.language import SHAPE, continued
from qlib.benches.llama import Llama
from qlib.book import generated

SMALL = {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 26}


class Letters:
    """A letter a token."""

    encode = staticmethod(lambda text: [ord(c) - ord("a") for c in text])
    decode = staticmethod(lambda ids: "".join(chr(ord("a") + i) for i in ids))


@pytest.fixture
def network():
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    model = Llama({**SHAPE, **SMALL, **heads}).requires_grad_(False).eval()
    for layer in (layer for layer in model.blocks.modules() if isinstance(layer, torch.nn.Linear)):
        layer.weight *= 5  # so that tokens depend on those before them
    return model


def test_each_choice_writes_what_the_network_quantized_so_writes(network):
    calibration = [(torch.randint(0, 26, (1, 8)), None)]
    found = generated.written(network, Letters, "abc", calibration, 12)
    assert [entry["choices"] for entry in found] == list(generated.CHOICES)
    assert found[0]["text"] == continued(network, Letters, "abc", 12) and len(found[0]["text"]) == 12
    config = QuantConfig(weight_bits=3, activation_bits=None)
    assert found[3]["text"] == continued(quantize(network, config, calibration), Letters, "abc", 12)
    assert len({entry["text"] for entry in found}) > 2


def test_choices_are_named_as_in_the_figure():
    names = [generated.name(choices) for choices in generated.CHOICES]
    assert names == ["float", "4 bits, groups of 64", "3 bits, groups of 64", "3 bits, per channel"]


@given(st.text(max_size=60))
def test_a_text_keeps_every_sign_and_gives_markdown_none(text):
    shown = generated.literal(text)
    assert not set(shown) & set("|*_`$<>\n[]\\~")
    if not set(text) & set("\r\x00") and all(c >= " " or c == "\n" for c in text) and "\x7f" not in text:
        assert html.unescape(shown) == text.replace("\n", "↵")
