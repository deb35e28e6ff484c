"""Our small text networks against those of transformers with the same weights, and quantized."""

import json

import pytest
import torch
from safetensors.torch import save_file

from qlib import QuantConfig, evaluate, footprint, quantize
from qlib.benches.bert import encoder_of
from qlib.benches.language import continued, windows
from qlib.benches.llama import llama_of_folder
from qlib.scores import LEFT_OUT

transformers = pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
BERT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}


def ids(n=3, tokens=12):
    return torch.randint(0, 40, (n, tokens), generator=torch.Generator().manual_seed(0))


def checkpoint(folder, **fields):
    """A folder with a random Llama, and that as transformers has it."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **fields})).eval()
    for parameter in model.parameters():  # norms of 1 would hide where they stand
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "fields", [{"tie_word_embeddings": True}, {"rope_theta": 5e5, "num_key_value_heads": 4}]
)
def test_a_folder_computes_what_transformers_computes(tmp_path, fields):
    theirs = checkpoint(tmp_path, **fields)
    ours = llama_of_folder(tmp_path)
    with torch.inference_mode():
        assert torch.allclose(ours(ids()), theirs(ids()).logits.transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert (ours.head.weight is ours.table.weight) is bool(fields.get("tie_word_embeddings"))


def test_with_a_cache_tokens_one_by_one_are_as_the_whole(tmp_path):
    checkpoint(tmp_path)
    ours = llama_of_folder(tmp_path)
    kept = [[] for _ in ours.blocks]
    with torch.inference_mode():
        whole = ours(ids())
        steps = [ours(part, kept) for part in ids().split([5, 1, 1, 3, 2], 1)]
    assert torch.allclose(torch.cat(steps, 2), whole, atol=1e-5)
    assert kept[0][0].shape == (3, 2, 12, 8)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "positions are scaled \\('llama3'\\)",
        ),
        ({"num_hidden_layers": 3}, "does not hold the weights that its settings speak of"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(tmp_path, change, words):
    checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=words):
        llama_of_folder(tmp_path)


def test_sentences_are_those_of_transformers():
    torch.manual_seed(0)
    theirs = transformers.BertModel(transformers.BertConfig(**BERT)).eval()
    for parameter in theirs.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    ours = encoder_of({**theirs.config.to_dict(), "model_type": "bert"}, theirs.state_dict())
    there = torch.arange(12) < torch.tensor([12, 7, 3])[:, None]
    with torch.inference_mode():
        hidden = theirs(ids(), attention_mask=there.long()).last_hidden_state
        wanted = (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        assert torch.allclose(ours(ids(), there), wanted, atol=1e-5)
        longer = torch.cat([ids(), ids()[:, :4]], 1), torch.cat([there, torch.zeros(3, 4, dtype=bool)], 1)
        assert torch.allclose(ours(*longer), wanted, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------


def model(tmp_path):
    checkpoint(tmp_path, tie_word_embeddings=True)
    return llama_of_folder(tmp_path)


def test_a_language_model_is_read_and_quantized_as_its_choices_say(tmp_path):
    ours = model(tmp_path)
    x, y = windows(ids(1, 24 * 12).flatten(), 12)
    whole = evaluate(ours, [(x, y)], "perplexity").value
    close = quantize(ours, QuantConfig(16, 16, first_last_bits=16), [x])
    assert evaluate(close, [(x, y)], "perplexity").value == pytest.approx(whole, rel=1e-3)
    rows = {layer.name: layer for layer in footprint(ours, x, QuantConfig(4, 8)).layers}
    assert rows["table"].weight_bits == rows["table"].weight_elements / (40 * 24) * 8 == 8
    assert (rows["blocks.0.attention.q"].weight_bits, rows["blocks.0.attention.k"].weight_bits) == (8, 4)
    inside = [layer.kind for name, layer in rows.items() if ".attention." in name]
    assert not {"addition", "multiplication"} & set(
        inside
    )  # positions are turned in, and scores scaled, in float
    kept = quantize(ours, QuantConfig(None, {"default": 32}, kv_bits=4, input_bits=None), [x])
    found = [m.name for m in kept.modules() if getattr(m, "bits", None) == 4]
    turned = [f"blocks.{i}.attention.{name}" for i in range(2) for name in ("rotary_1", "v")]
    assert sorted(found) == turned


def test_gptq_and_groups_work_on_a_language_model(tmp_path):
    ours = model(tmp_path)
    x, y = windows(ids(1, 64 * 12).flatten(), 12)
    config = QuantConfig(3, None, weight_granularity="per_group", group_size=16, first_last_bits=None)
    found = [
        evaluate(quantize(ours, config, [x[32:]], method), [(x, None)], "kl", ours).value
        for method in ("nearest", "gptq")
    ]
    assert found[1] < found[0]


def test_windows_follow_one_another_and_predict_what_comes_next():
    x, y = windows(torch.arange(25), 8)
    assert x.tolist() == [list(range(i, i + 8)) for i in (0, 8, 16)]
    assert torch.equal(y[:, :-1], x[:, 1:]) and (y[:, -1] == LEFT_OUT).all()
    begun, same = windows(torch.arange(25), 8, begin=99)
    assert (begun[:, 0] == 99).all() and torch.equal(begun[:, 1:], x[:, 1:]) and torch.equal(same, y)


def test_what_is_written_after_a_text_is_the_likeliest(tmp_path):
    class Letters:
        def encode(self, text):
            return [ord(c) - 97 for c in text]

        def decode(self, tokens):
            return "".join(chr(97 + token) for token in tokens)

    theirs = checkpoint(tmp_path)
    ours = llama_of_folder(tmp_path)
    given = torch.tensor([[1, 2, 3]])
    wanted = theirs.generate(given, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert continued(ours, Letters(), "bcd", 6) == Letters().decode(wanted[0, 3:].tolist())


def test_a_damaged_folder_is_refused_in_one_line(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="holds no \\*.safetensors"):
        llama_of_folder(tmp_path)
    save_file({"model.norm.weight": torch.ones(24)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights") as caught:
        llama_of_folder(tmp_path)
    assert "\n" not in str(caught.value)
