"""The figure that reads a checkpoint's file in the page says what `QuantizationCard.from_checkpoint` says."""

import json

import pytest
from checkpoints import written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlib import QuantizationCard
from qlib.cards import FIELDS, NOT_REPORTED, from_checkpoint
from qlib.cards.checkpoint.gguf_header import MAX_NAME, tables
from qlib.cards.render import faults, shown, table
from qlib.widgets.checkpoint import checkpoint_reader

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A figure</title></head>
<body style="margin: 8px">{html}</body></html>"""

CARD = """result => {
  const lines = (i) => [...result.querySelectorAll("details")[i].querySelectorAll("li")].map((e) => e.textContent);
  const wrong = [...result.querySelectorAll("[data-name=faults] li")].map((e) => e.textContent);
  const [remarks, cells] = [result.querySelector("[data-name=remarks]"), [...result.querySelectorAll("td")]];
  return {
    fields: Object.fromEntries(cells.map((e) => [e.dataset.name, JSON.parse(e.dataset.value)])),
    faults: wrong,
    remarks: remarks?.textContent.replace(/^.*?: /, "") ?? "not reported",
    rows: cells.map((e) => [e.parentElement.cells[0].textContent, e.textContent]),
    sources: lines(0),
    missing: lines(1),
    name: result.querySelector("caption").textContent }; }"""  # noqa: E501


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The figure on a page of its own, which asks for nothing and complains of nothing."""
    path = tmp_path_factory.mktemp("figure") / "checkpoint.html"
    path.write_text(PAGE.format(html=checkpoint_reader().to_html()), "utf8")
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda asked: complaints.append(asked.url) if asked.url[:4] not in ("file", "data") else None,
    )
    page.goto(path.as_uri())
    page.locator("section table").wait_for()
    yield page
    page.close()
    assert complaints == []


def read(page, path):
    """What stands on the card that the page makes of a file, or its fault."""
    chosen = page.get_by_label("Choose a GGUF file")
    chosen.set_input_files([])
    chosen.set_input_files(path)
    page.locator(".result:not([aria-busy=true])").wait_for(state="attached")
    fault = page.get_by_role("alert").inner_text()
    if fault:
        return fault
    return page.locator(".result").evaluate(CARD)


def agree(page, path):
    """Page and Python say the same of a file. Returns the card."""
    card = QuantizationCard.from_checkpoint(path)
    known = {name: card[name] for name in FIELDS if card[name] != NOT_REPORTED}
    found = read(page, path)
    assert not isinstance(found, str), found
    assert found["fields"] == known
    assert found["faults"] == faults(card)
    assert found["remarks"] == card.data["remarks"]
    assert found["name"] == ("a checkpoint" if path.name in from_checkpoint.SETTINGS else card.name)
    titles = {name: field["title"] for name, field in FIELDS.items()}
    assert sorted(found["sources"]) == sorted(
        f"{titles[n]}: {said}" for n, said in card.data["sources"].items()
    )
    rows = [(title, value) for _, part in table(card) for title, value, reported in part if reported]
    assert found["rows"] == [list(row) for row in rows]
    assert sorted(found["missing"]) == sorted(titles[name] for name in set(FIELDS) - set(known))
    return card


# ------------------------------------------------------------------------------------------------------ GGUF

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType


def model(*kinds, embedding=Kind.F16, head=None):
    """Blocks with a matrix of each of these types."""
    tensors = {"token_embd.weight": (embedding, 8, 512), "output_norm.weight": (Kind.F32, 512)}
    tensors |= {f"blk.{i}.ffn_up.weight": (kind, 4, 512) for i, kind in enumerate(kinds)}
    tensors["blk.0.ffn_up.bias"] = (Kind.F32, 4)
    return tensors | ({} if head is None else {"output.weight": (head, 8, 512)})


FILES = {
    "plain-Q8_0": (model(Kind.Q8_0, Kind.Q8_0, embedding=Kind.Q8_0, head=Kind.Q8_0), {"file_type": 7}),
    "tied-Q4_0": (model(Kind.Q4_0, Kind.Q4_0, embedding=Kind.Q6_K), {"name": "Some model", "file_type": 2}),
    "mixed-Q4_K_M": (
        model(Kind.Q4_K, Kind.Q6_K, Kind.Q5_K, Kind.Q4_K, Kind.F16, embedding=Kind.Q4_K, head=Kind.Q6_K),
        {"file_type": 15, "name": "M Q4_K_S", "quantized_by": "Somebody", "add_bos_token": True},
    ),
    "iq.iq3_xxs": (
        model(Kind.IQ3_XXS, Kind.IQ2_S, head=Kind.Q5_K),
        {"string": ("quantize.imatrix.dataset", "a text")},
    ),
    "ternary": (model(Kind.TQ1_0, Kind.TQ2_0), {"int32": ("quantize.imatrix.chunks_count", 125)}),
    "float-F16": (model(Kind.F16, Kind.F32, head=Kind.BF16), {"file_type": 1}),
    "words": (
        {"output_norm.weight": (Kind.F32, 512)},
        {"token_list": ["a", "b"] * 200, "custom_alignment": 64},
    ),
    "part-00001-of-00003": (model(Kind.Q4_1), {"uint16": ("split.count", 3)}),
    "lines": (model(Kind.Q5_1), {"name": "two\nlines \u200b\u2028 of a \U0001f600" * 30}),
    "near-Q4_K_M": (model(*[Kind.Q4_K] * 99, Kind.Q6_K, embedding=Kind.Q4_K), {}),
    "beside-Q4_K_M": (model(*[Kind.Q4_K] * 30, Kind.Q6_K, embedding=Kind.Q4_K), {}),
    "many": (model(*[Kind.Q4_K] * 30, Kind.MXFP4), {}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("order", gguf.GGUFEndian)
def test_the_page_reads_gguf_files_as_python_does(page, tmp_path, name, order):
    tensors, metadata = FILES[name]
    agree(page, written(tmp_path / f"{name}.gguf", tensors, order, **metadata))


@pytest.mark.parametrize(
    "kind", [k for k in Kind if str(k.value) in tables()["tensor_types"]], ids=lambda k: k.name
)
def test_the_page_knows_every_type_that_python_knows(page, tmp_path, kind):
    agree(page, written(tmp_path / "m.gguf", model(kind, embedding=kind, head=kind)))


def test_a_header_longer_than_what_is_read_at_first(page, tmp_path):
    words = [f"{i} {'word' * 20}" for i in range(30_000)]
    agree(page, written(tmp_path / "m.gguf", model(Kind.Q4_K), token_list=words))


@pytest.mark.parametrize(
    "most, one, average", [(Kind.Q4_0, Kind.Q5_0, 4.007812), (Kind.Q5_0, Kind.Q8_0, 5.023438)]
)
def test_halves_are_rounded_to_even_as_in_python(page, tmp_path, most, one, average):
    tensors = {f"blk.{i}.weight": (most if i else one, 2, 256) for i in range(128)}
    assert agree(page, written(tmp_path / "m.gguf", tensors))["average_weight_bits"] == average


@pytest.mark.parametrize("cut", [0, 3, 4, 10, 100, 700, -1000, -17, -16])
def test_a_file_that_was_cut_is_a_fault_or_a_remark_in_both(page, tmp_path, cut):
    whole = written(tmp_path / "m.gguf", model(Kind.Q4_K)).read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:cut])
    try:
        QuantizationCard.from_checkpoint(path)
    except ValueError as error:
        said = read(page, path)
        assert said.startswith("cut.gguf: ") and "\n" not in said
        assert said.removeprefix("cut.gguf: ").rstrip(".") in str(error)
    else:
        ends = ["ends before the weights" in line for line in faults(agree(page, path))]
        assert ends == [True] * (cut != -16)  # as many bytes only fill up a block at the end


MANGLED = {
    "version 9, not 2 or 3": lambda b: b[:4] + b"\x09" + b[5:],
    "does not begin with GGUF": lambda b: b"GGML" + b[4:],
    "tensors, more than": lambda b: b[:8] + b"\xff" * 8 + b[16:],
    "keys, more than": lambda b: b[:16] + b"\xff" * 8 + b[24:],
    f"bytes of a name, more than {MAX_NAME:,}": lambda b: b[:24] + b"\xff" * 8 + b[32:],
    "names that are not text": lambda b: b.replace(b"general.architecture", b"general.architectur\xff"),
    "has sizes that Q4_K does not allow": lambda b: b.replace(
        b"\0\2\0\0\0\0\0\0\4\0\0", b"\1\2\0\0\0\0\0\0\4\0\0"
    ),
    "of type": lambda b: b.replace(b"\4\0\0\0\0\0\0\0\x0c\0\0\0", b"\4\0\0\0\0\0\0\0\xcc\0\0\0"),
    "two of its tensors": lambda b: b.replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight"),
}


@pytest.mark.parametrize("fault", MANGLED)
def test_what_python_refuses_the_page_refuses_in_one_line(page, tmp_path, fault):
    whole = written(tmp_path / "m.gguf", model(Kind.Q4_K, Kind.Q4_K)).read_bytes()
    path = tmp_path / "bad.gguf"
    path.write_bytes(MANGLED[fault](whole))
    with pytest.raises(ValueError, match=fault):
        QuantizationCard.from_checkpoint(path)
    said = read(page, path)
    assert isinstance(said, str) and said.startswith("bad.gguf: ") and fault in said and "\n" not in said


ODDLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BYTES = st.tuples(st.integers(0, 900), st.sampled_from([0, 1, 2, 8, 9, 12, 32, 64, 128, 255]))


@ODDLY
@given(st.lists(BYTES, min_size=1, max_size=3))
def test_a_header_with_odd_bytes_is_refused_by_both_or_read_alike(page, tmp_path, changes):
    tensors, metadata = FILES["mixed-Q4_K_M"]
    path = written(tmp_path / "odd.gguf", tensors, **metadata)
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place] = byte
    path.write_bytes(content)
    try:
        QuantizationCard.from_checkpoint(path)
    except ValueError as error:
        said = read(page, path)
        assert isinstance(said, str) and "\n" not in said, error
    else:
        agree(page, path)


# -------------------------------------------------------------------------------------------------- settings


def saved(folder, quantization, name="config.json", **more):
    whole = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **more}
    whole = whole | {"quantization_config": quantization} if name == "config.json" else quantization
    path = folder / name
    path.write_text(json.dumps(whole, default=str))
    return path


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
BNB = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
}
INT8 = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "channel",
    "observer": "memoryless_minmax",
}
TOKENS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": "token",
    "dynamic": True,
    "observer": None,
}
INT4 = {
    "num_bits": 4,
    "type": "int",
    "symmetric": False,
    "strategy": "group",
    "group_size": 32,
    "actorder": "weight",
}
SCHEME = {"targets": ["Linear"], "weights": INT8, "input_activations": TOKENS}
TENSORS = {"quant_method": "compressed-tensors", "config_groups": {"group_0": SCHEME}, "ignore": ["lm_head"]}
SETTINGS = {
    "gptq": GPTQ,
    "gptq rows": {**GPTQ, "group_size": -1, "desc_act": True, "static_groups": False, "damp_percent": 0.01},
    "gptq own modules": {
        **GPTQ,
        "dynamic": {"-:.*gate.*": {}, "+:.*down.*": {"bits": 8, "group_size": 64}, "up": {"sym": False}},
        "lm_head": True,
        "rotation": "hadamard",
        "checkpoint_format": "gptq_v2",
        "meta": {"quantizer": ["gptqmodel:5.0"], "true_sequential": True, "damp_percent": 1e-5},
        "dataset": ["a text", "another one"],
        "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp"]],
        "model_seqlen": 2048,
    },
    "gptq bits with a point": {**GPTQ, "bits": 4.0, "group_size": 1e2, "damp_percent": 1},
    "gptq of AutoRound": {**GPTQ, "autoround_version": "0.12.2", "iters": 200, "nsamples": 512},
    "gptq nearest": {**GPTQ, "autoround_version": "0.12.2", "iters": 0, "act_group_aware": True},
    "gptq at a bound": {**GPTQ, "group_size": 2**20, "dataset": "x" * 200},
    "gptq beyond a bound": {**GPTQ, "group_size": 2**20 + 1, "dataset": "x" * 201, "bits": 17},
    "awq as many names as there is room for": {
        **AWQ,
        "modules_to_not_convert": [f"m{i}" for i in range(2000)],
    },
    "awq more names": {**AWQ, "modules_to_not_convert": [f"m{i}" for i in range(2001)]},
    "gptq by key": {"bits": 3, "desc_act": True, "true_sequential": False, "dataset": "c4"},
    "awq": AWQ,
    "awq contradicts itself": {**AWQ, "sym": True, "modules_to_not_convert": ["b", "a", "lm_head"]},
    "awq by key": {"w_bit": 4, "q_group_size": 128, "zero_point": False},
    "bitsandbytes nf4": {**BNB, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"},
    "bitsandbytes fp4": {**BNB, "bnb_4bit_quant_type": "fp4", "llm_int8_skip_modules": ["lm_head"]},
    "bitsandbytes 8 bits": {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    "bitsandbytes kept": {"load_in_8bit": True, "llm_int8_threshold": 6.25, "llm_int8_has_fp16_weight": True},
    "bitsandbytes both": {**BNB, "load_in_8bit": True},
    "compressed-tensors": {
        **TENSORS,
        "kv_cache_scheme": None,
        "format": "int-quantized",
        "quantization_status": "compressed",
    },
    "compressed-tensors groups": {
        **TENSORS,
        "config_groups": {
            "a": {"targets": ["re:.*down.*"], "weights": INT4, "input_activations": None},
            "b": {"targets": ["re:.*up.*", "gate"], "weights": {**INT4, "num_bits": 8}},
        },
        "ignore": ["re:.*lm_head", "x"],
        "kv_cache_scheme": {"num_bits": 8},
        "quantization_status": "calibration",
        "sparsity_config": {"sparsity_structure": "2:4"},
        "transform_config": {"config_groups": {"u": {"type": "hadamard"}, "v": {"type": "random"}}},
    },
    "compressed-tensors blocks": {
        "config_groups": {
            "g": {
                "targets": ["Linear"],
                "weights": {**INT8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
                "input_activations": {
                    **TOKENS,
                    "type": "float",
                    "strategy": "group",
                    "group_size": 128,
                    "dynamic": "local",
                },
            }
        }
    },
    "compressed-tensors 32 bits": {
        **TENSORS,
        "config_groups": {"g": {**SCHEME, "weights": {**INT8, "num_bits": 32}}},
    },
    "compressed-tensors by name": {**TENSORS, "config_groups": {"W8A8": ["Linear"]}},
    "modelopt": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]},
    "unknown": {"quant_method": "quip\n#"},
    "nameless": {"mine": 4},
    "proto": {"quant_method": "__proto__", "constructor": 1, "toString": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_reads_settings_as_python_does(page, tmp_path, name):
    agree(page, saved(tmp_path, SETTINGS[name]))


ALONE = {
    "some.json": AWQ,
    "quantize_config.json": GPTQ,
    "quant_config.json": {"w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
    "hf_quant_config.json": {
        "producer": {"name": "modelopt", "version": "0.37"},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head"],
            "quantized_layers": {
                "a": {"quant_algo": "FP8"},
                "b": {"quant_algo": "NVFP4", "group_size": 16},
                "3": {"quant_algo": "W4A16_AWQ", "group_size": 128},
            },
        },
    },
}


@pytest.mark.parametrize("name", ALONE)
def test_a_file_of_settings_alone(page, tmp_path, name):
    agree(page, saved(tmp_path, ALONE[name], name))


def test_the_network_and_where_settings_may_stand(page, tmp_path):
    agree(page, saved(tmp_path, GPTQ, _name_or_path="org/model-7b"))
    agree(page, saved(tmp_path, None, _name_or_path="./home/x"))
    agree(page, saved(tmp_path, None, text_config={"quantization_config": AWQ}))
    agree(page, saved(tmp_path, None, compression_config=TENSORS, architectures=[7]))


ODD = (None, True, False, -1, 0, 2, 4.0, 0.1, 2**31, "", "a", " a\tb ", "int8", [], ["x"], [1], {}, {"a": 1})


@st.composite
def changed(draw, value):
    """A value in which some parts are odd."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(ODD))
    if isinstance(value, dict):
        return {name: draw(changed(part)) for name, part in value.items()}
    return [draw(changed(part)) for part in value] if isinstance(value, list) else value


@ODDLY
@given(st.sampled_from([*SETTINGS.values(), *ALONE.values()]).flatmap(changed))
def test_settings_with_odd_values_are_read_alike(page, tmp_path, quantization):
    agree(page, saved(tmp_path, quantization))


FAULTS = {
    "config.json": [
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"a": NaN}', "not JSON, line 1"),
        ('{"a": 1,\n "b": 01}', "not JSON, line 2"),
        ('{"a": "\\q"}', "not JSON, line 1"),
        ("[1]", "holds no mapping of settings"),
        ('{"a": ' * 25 + "1" + "}" * 25, "nested too deeply"),
        ('{"a": 1} x', "not JSON, line 1"),
        ("", "not JSON, line 1"),
        ('{"a": [' + "1," * 1_000_001 + "1]}", "1,000,000 values"),
        ('{"a": "' + "x" * 16_000_001 + '"}', "larger than 16,000,000 bytes"),
        (b'{"a": "\xff"}', "not a text file in UTF-8"),
        (
            '{"quantization_config": {"quant_method": "torchao"}}',
            "(torchao) is of a kind that this page does not read",
        ),
    ],
    "model.safetensors": [("x", "this page reads .gguf and .json alone")],
}


@pytest.mark.parametrize("name, text, fault", [(n, *each) for n, every in FAULTS.items() for each in every])
def test_faults_of_files_in_one_line(page, tmp_path, name, text, fault):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = read(page, path)
    assert isinstance(said, str) and fault in said and said.startswith(f"{name}: ") and "\n" not in said
    assert page.locator(".result td").count() == 0


# ------------------------------------------------------------------------------------ labels, drops and looks


def told(page, text):
    page.get_by_label("Decode this label").fill(text)
    rows = page.locator("[aria-live=polite] tr")
    return {e.locator("th").inner_text(): e.locator("td").inner_text() for e in rows.all()}


@pytest.mark.parametrize("entry", tables()["file_types"].values(), ids=lambda entry: entry["label"])
def test_a_label_is_decoded_by_the_table(page, entry):
    kind = next(k for k in tables()["tensor_types"].values() if k["name"] == entry["type"])
    found = told(page, f" {entry['label'].lower()} ")
    assert (found["Type of tensors"], float(found["Bits of a weight"])) == (kind["name"], kind["code_bits"])
    if isinstance(kind["bits"], int):
        assert float(found["Bits of a weight with scales"]) == pytest.approx(
            8 * kind["bytes"] / kind["block"], rel=1e-5
        )
        assert found["Weights in a block"] == str(kind["block"])
        assert found["Weights that share a scale"] == str(kind["group"])
        symmetric = (
            NOT_REPORTED if kind["symmetric"] is None else shown("weight_symmetric", kind["symmetric"])
        )
        assert found["Symmetric"] == symmetric and found["Quantizer"] == kind["quantizer"]
    else:
        assert found["Quantized"] == "no"


def test_names_of_types_and_of_files_are_decoded_and_nonsense_is_not(page):
    assert told(page, "Q4_K")["Type of tensors"] == "Q4_K"
    assert told(page, "some-model-IQ3_M.gguf")["Type of tensors"] == "IQ3_S"
    for text in ("Q9_Z", "toString", "<img src=x>"):
        assert told(page, text) == {}
        assert "No label that this qlib knows" in page.locator("[aria-live=polite]").inner_text()


DROP = """(place, [name, text]) => {
  const dropped = new DataTransfer();
  for (const each of name.split(" ")) dropped.items.add(new File([text], each));
  place.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true })); }"""


def test_a_file_can_be_dropped_and_of_several_none_is_taken(page):
    page.locator(".drop").evaluate(DROP, ["quantize_config.json", json.dumps(GPTQ)])
    page.locator(".result td[data-name=weight_bits]").wait_for()
    page.locator(".drop").evaluate(DROP, ["a.json b.json", "{}"])
    assert "a.json: one file at a time" in page.get_by_role("alert").inner_text()


def test_keys_reach_everything(page):
    page.locator("body").click(position={"x": 1, "y": 1})
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.shadowRoot?.activeElement?.type"))
    assert {"file", "text"} <= set(reached)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_card_fits_a_phone_and_a_checker_for_accessibility_finds_nothing(page, tmp_path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    ink, paper = {"light": ("#111", "#fff"), "dark": ("#eee", "#111")}[theme]
    page.set_viewport_size({"width": 375, "height": 800})
    page.evaluate(f"Object.assign(document.body.style, {{ color: '{ink}', background: '{paper}' }})")
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    page.locator(f"section{'.dark' if theme == 'dark' else ':not(.dark)'}").wait_for()
    tensors, metadata = FILES["mixed-Q4_K_M"]
    agree(page, written(tmp_path / f"{'long' * 20}-Q4_K_M.gguf", tensors, **metadata))
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    found = axe.run(page, options={"rules": {"region": {"enabled": False}}}).response["violations"]
    found = [one for one in found if one["id"] not in ("landmark-one-main", "page-has-heading-one")]
    assert [(one["id"], [node["html"][:100] for node in one["nodes"][:3]]) for one in found] == []
