"""The live panel: every field has its control, the last move wins, and its answer is that of `quantize` and
`evaluate`.
"""

import dataclasses
import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ipywidgets
import pytest
import torch
from choice_strategies import other_values
from helpers import FLOAT, Block, images
from hypothesis import given
from hypothesis import strategies as st

import qlib
from qlib import QuantConfig
from qlib.choices import choice, choices
from qlib.network import read
from qlib.widgets import explore
from qlib.widgets import panel as panels

FIELDS = [field.name for field in dataclasses.fields(qlib.QuantConfig)]
SOON = 120  # seconds after which a test gives up


@pytest.fixture
def own():
    """A network, calibration images and labelled batches."""
    return Block(), [images(40), images(40)], [(images(70), torch.arange(70) % 10) for _ in range(3)]


@pytest.fixture
def panel(own):
    return explore(*own).wait(SOON)


def expected(panel):
    return qlib.evaluate(qlib.quantize(panel.model, panel.config, panel.calibration), panel.validation)


def test_every_field_has_a_control_that_holds_its_default(panel):
    assert list(panel.controls) == FIELDS and panel.config == qlib.QuantConfig()
    for name, control in panel.controls.items():
        assert control.description == qlib.cards.FIELDS[name]["title"]
        if choices(QuantConfig)[name].values:
            assert [value for _, value in control.options] == list(choices(QuantConfig)[name].values)


def shown(widget):
    """All widgets in one, with those that are folded away."""
    return [widget, *(inner for child in getattr(widget, "children", ()) for inner in shown(child))]


def test_named_fields_stand_in_front_and_every_control_is_somewhere(own):
    panel = explore(*own, front=("pooling", "weight_bits"), percentile=99.0)
    assert list(panel.widget.children[1:3]) == [panel.controls["pooling"], panel.controls["weight_bits"]]
    everything = shown(panel.widget)
    assert all(everything.count(control) == 1 for control in panel.controls.values())
    (button,) = [
        w
        for w in everything
        if isinstance(w, ipywidgets.ToggleButton) and "all other choices" in w.description
    ]
    box = panel.widget.children[panel.widget.children.index(button) + 1]
    assert box.layout.display == "none"
    button.value = True
    assert box.layout.display == "" and button.description.startswith("Hide")
    assert panel.config.percentile == 99.0


def last(control):
    """Move a control somewhere else, whatever it is."""
    if isinstance(control, ipywidgets.Checkbox):
        control.value = not control.value
    elif isinstance(control, ipywidgets.SelectMultiple):
        control.value = control.options[1:4:2]
    elif isinstance(control, ipywidgets.BoundedIntText):
        control.value += 1
    elif "per_token" in str(control.options):  # which needs another choice beside it
        control.index = 1
    else:
        control.index = len(control.options) - (2 if control.index == len(control.options) - 1 else 1)


def test_what_the_network_has_not_is_said(panel):
    last(panel.controls["kv_bits"])
    assert panel.wait(SOON).accuracy is None and "no attention" in panel._answer.value


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "kv_bits"])
def test_a_move_changes_the_field_and_the_answer_is_that_of_quantize_and_evaluate(panel, name):
    before = panel.config
    last(panel.controls[name])
    changed = [field for field in FIELDS if getattr(panel.config, field) != getattr(before, field)]
    assert changed == [name]
    accuracy = panel.wait(SOON).accuracy
    assert (accuracy.correct == expected(panel).correct).all()
    assert (
        f"<b>{accuracy.top1:.2f} %</b>" in panel._answer.value and 'aria-busy="false"' in panel._answer.value
    )
    assert str(qlib.compare(accuracy, panel.baseline).points.__format__("+.2f")) in panel._answer.value


def test_choices_of_values_by_name_such_as_bits_by_layer(own):
    layers = read(own[0]).layers
    choices = {
        "weight_bits": {"mixed": {"default": 2, layers[-1]: 7}, "plain": 3},
        "first_last_bits": {"alike": None, "8 bits": 8},
    }
    panel = explore(*own, choices=choices)
    assert panel.config.weight_bits == {"default": 2, layers[-1]: 7} and panel.config.first_last_bits is None
    for index, (bits, ends) in enumerate([({"default": 2, layers[-1]: 7}, None), (3, 8)]):
        panel.controls["weight_bits"].index = index
        panel.controls["first_last_bits"].index = index
        assert (panel.config.weight_bits, panel.config.first_last_bits) == (bits, ends)
        assert (panel.wait(SOON).accuracy.correct == expected(panel).correct).all()
    assert explore(*own, weight_bits={"default": 5}).config.weight_bits == {"default": 5}


def workers():
    """Threads that measure; one that has just finished is given the time to leave."""
    found = [thread for thread in threading.enumerate() if thread.name == "qlib.explore"]
    for thread in found:
        thread.join(0.05)
    return [thread for thread in found if thread.is_alive()]


def test_ten_quick_moves_leave_no_stale_result_and_no_queue(own, monkeypatch):
    started = []
    gate = threading.Event()
    quantize = panels.quantize

    def slow(model, config, *more):
        started.append(config.activation_bits)
        gate.wait(SOON)
        return quantize(model, config, *more)

    panel = explore(*own).wait(SOON)
    monkeypatch.setattr(panels, "quantize", slow)
    for bits in range(2, 12):
        panel.controls["activation_bits"].value = bits
        assert panel.accuracy is None and len(workers()) == 1
    with pytest.raises(TimeoutError, match="not finished within 0.1 seconds"):
        panel.wait(0.1)
    gate.set()
    accuracy = panel.wait(SOON).accuracy
    # The few images and all of them; whatever ran at first was let go
    assert started[-2:] == [11, 11] and len(started) <= 3
    assert (
        accuracy.correct == expected(panel).correct
    ).all() and f"<b>{accuracy.top1:.2f} %</b>" in panel._answer.value
    assert workers() == []


def test_a_move_ends_the_computation_for_the_old_setting(own, monkeypatch):
    counts = []
    reached = threading.Event()
    moved = threading.Event()

    def endless(model, config, *more):
        if config.weight_bits == 3:
            while True:  # until it is ended from outside
                counts.append(torch.ones(1).item())
                reached.set()
                moved.wait(SOON)
        return quantize(model, config, *more)

    quantize = panels.quantize
    panel = explore(*own).wait(SOON)
    monkeypatch.setattr(panels, "quantize", endless)
    panel.controls["weight_bits"].value = 3
    assert reached.wait(SOON)
    panel.controls["weight_bits"].value = 4
    moved.set()
    panel.wait(SOON)
    assert len(counts) == 1 and (panel.accuracy.correct == expected(panel).correct).all()


def test_errors_stand_in_the_panel_escaped_and_the_next_move_recovers(panel, monkeypatch):
    panel.controls["bit_choices"].value = ()
    assert panel.wait(SOON).accuracy is None
    assert (
        "This cannot be done" in panel._answer.value
        and "bit_choices must hold at least one bitwidth" in panel._answer.value
    )
    panel.controls["bit_choices"].value = (8,)
    assert panel.wait(SOON).accuracy is not None and "cannot" not in panel._answer.value
    with monkeypatch.context() as patch:
        patch.setattr(
            panels, "footprint", lambda *_: (_ for _ in ()).throw(RuntimeError("out of <memory>\nand more"))
        )
        panel.controls["weight_bits"].value = 2
        assert (
            panel.wait(SOON).accuracy is None
            and "RuntimeError: out of &lt;memory&gt;</p>" in panel._answer.value
        )
    panel.controls["activation_symmetric"].value = True
    panel.controls["activation_bits"].value = 1
    panel.wait(SOON)
    assert "symmetric grid needs 2 bits" in panel._answer.value
    assert not any(control.disabled for control in panel.controls.values())
    with pytest.raises(ValueError, match="activation_bits"):
        panel.config  # noqa: B018


configs = st.fixed_dictionaries(
    {
        "weight_bits": st.sampled_from([None, 3]),
        "activation_bits": st.sampled_from([None, 3]),
        "weight_symmetric": st.booleans(),
        "activation_symmetric": st.booleans(),
        "activation_dynamic": st.booleans(),
        "weight_range": st.sampled_from(["minmax", "percentile"]),
        "activation_range": st.sampled_from(["minmax", "percentile"]),
        "quantize_skip": st.booleans(),
        "quantize_residual": st.booleans(),
    }
)
OTHER = {
    **other_values(),
    "percentile": 80.0,
    "input_bits": 2,
    "first_last_bits": 2,
    "group_size": 2,
    "float_layers": ("body",),
    "bit_choices": (1,),
}


@given(configs)
def test_a_disabled_field_changes_nothing(fields):
    torch.manual_seed(0)
    model = Block().eval()
    x = images(6)
    config = qlib.QuantConfig(**fields)
    acting = panels._acting(config)
    assert {"weight_bits", "activation_bits"} <= acting
    reference = qlib.quantize(model, config, [x])(x)
    for name in set(FIELDS) - acting:
        assert torch.equal(qlib.quantize(model, config.replace(**{name: OTHER[name]}), [x])(x), reference), (
            name
        )


def test_fields_that_do_not_act_are_disabled_until_they_do(panel):
    assert panel.controls["percentile"].disabled and not panel.controls["weight_bits"].disabled
    panel.controls["weight_range"].value = "percentile"
    assert not panel.controls["percentile"].disabled
    panel.controls["activation_bits"].value = "float"
    assert panel.controls["pooling"].disabled and panel.config.activation_bits is None


def test_layers_left_in_float_are_chosen_among_those_of_the_network(own):
    panel = explore(*own, float_layers=["bod*"])
    control = panel.controls["float_layers"]
    assert control.options == ("bod*", "first", "body", "project", "body2", "last")
    assert control.value == panel.config.float_layers == ("bod*",)
    control.value = ()
    assert not control.disabled and panel.config.float_layers == ()
    control.value = ("first", "body")
    assert panel.config.float_layers == ("body", "first") and panel.card["float_layers"] == ["body", "first"]
    panel.controls["weight_bits"].value = "float"
    panel.controls["activation_bits"].value = "float"
    assert control.disabled


def test_float_on_both_sides_is_the_baseline(own):
    panel = explore(*own, **FLOAT).wait(SOON)
    assert (
        panel.accuracy.correct.tolist() == panel.baseline.correct.tolist() == expected(panel).correct.tolist()
    )
    assert "+0.00 points" in panel._answer.value


def test_the_card_is_that_of_the_present_setting(panel):
    panel.controls["pooling"].value = "float"
    card = panel.wait(SOON).card
    size = qlib.footprint(panel.model, panel.validation[0][0][:1], panel.config)
    assert (card["pooling"], card["network"], card["images"], card["weight_bytes"]) == (
        "float",
        "Block",
        80,
        size.weight_bytes,
    )
    assert card["accuracy"]["n"] == card["float_accuracy"]["n"] == 210
    assert (
        card.to_html() in panel._card.value
        and "qlib.QuantConfig(pooling=&#x27;float&#x27;)" in panel._card.value
    )


def test_the_first_answer_says_what_it_stands_on(own, monkeypatch):
    said = []
    panel = explore(*own).wait(SOON)
    panel._answer.observe(lambda change: said.append(change.new), "value")
    monkeypatch.setattr(panels, "SOON", SOON)
    panel.controls["weight_bits"].value = 3
    panel.wait(SOON)
    assert "Measuring" in said[0] and 'aria-busy="true"' in said[0] and "qold" in said[0]
    assert "On 70 of 210 validation images, ranges from 64 of 80 calibration images ..." in said[1]
    assert "On all 210 validation images, ranges from all 80 calibration images; 95 % intervals." in said[-1]
    assert all('role="status"' in text for text in said)


def test_the_panel_works_on_a_copy_and_leaves_the_network_alone(own):
    network = own[0].train()
    panel = explore(*own).wait(SOON)
    assert network.training and panel.model is not network
    with torch.no_grad():
        network.last.weight.zero_()
    panel.controls["weight_bits"].value = 3
    assert panel.wait(SOON).model.last.weight.any()


def test_generators_and_no_calibration(own):
    model, calibration, validation = own
    assert explore(model, iter(calibration), iter(validation)).wait(SOON).accuracy.n == 210
    panel = explore(model, None, validation, activation_dynamic=True).wait(SOON)
    assert panel.accuracy is not None and "calibration images" not in panel._answer.value
    panel.controls["activation_dynamic"].value = False
    assert panel.wait(SOON).accuracy is None and "calibration is empty" in panel._answer.value


def test_a_bench(bench):
    panel = explore(bench, network="better", images=30, calibration_images=20).wait(SOON)
    assert (
        panel.accuracy.n == 30
        and panel.card["network"] == "better of the bench digits"
        and panel.card["images"] == 20
    )
    assert (panel.accuracy.correct == expected(panel).correct).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (lambda own, bench: explore(own[0]), "needs validation images"),
        (lambda own, bench: explore(bench, [1], [2]), "takes a bench, or a torch.nn.Module"),
        (lambda own, bench: explore(3), "got a int"),
        (lambda own, bench: explore(bench, network="best"), "has no network 'best'"),
        (lambda own, bench: explore(*own, front=("bits",)), "no field 'bits'"),
        (lambda own, bench: explore(*own, weight_bit=3), "did you mean 'weight_bits'"),
        (lambda own, bench: explore(*own, weight_bits=40), "weight_bits must be a whole number"),
        (
            lambda own, bench: explore(*own, weight_bits=4, choices={"weight_bits": {"two": 2}}),
            "not one of its choices: two",
        ),
        (lambda own, bench: explore(own[0], own[1], []), "validation must hold"),
    ],
)
def test_what_cannot_be_is_refused(own, bench, arguments, message):
    with pytest.raises(ValueError, match=message):
        arguments(own, bench)


def test_a_panel_leaves_torch_with_as_many_threads_as_before(panel):
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        panel.controls["weight_bits"].value = 5
        panel.wait(SOON)
        assert panel._threads == torch.get_num_threads()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)


def test_networks_run_in_other_threads_while_one_is_read():
    model = Block().eval()
    x = images(4)
    wrong = []
    stop = threading.Event()
    with torch.no_grad():
        right = model(x)

        def run():
            while not (stop.is_set() or wrong):
                try:
                    with torch.no_grad():
                        wrong.extend([] if torch.equal(model(x), right) else ["other values"])
                except Exception as error:
                    wrong.append(error)

        def trace():
            for _ in range(20):
                read(Block())

        runner = threading.Thread(target=run)
        tracers = [threading.Thread(target=trace) for _ in range(2)]
        call = torch.nn.Module.__call__
        for thread in (runner, *tracers):
            thread.start()
        for thread in tracers:
            thread.join()
        stop.set()
        runner.join()
    assert not wrong and torch.nn.Module.__call__ is call


def test_qlib_needs_no_ipywidgets_and_says_what_is_missing():
    code = """
import sys
sys.modules["ipywidgets"] = None
import qlib
from qlib import QuantConfig
assert "explore" in dir(qlib) and "qlib.widgets" not in sys.modules
try:
    qlib.explore
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "extra 'book'" in done.stdout and done.returncode == 0, done.stderr
    assert qlib.explore is explore and "images" in inspect.signature(explore).parameters
    with pytest.raises(AttributeError, match="no attribute 'explorer'"):
        qlib.explorer  # noqa: B018


def test_a_move_in_the_moment_of_an_error_is_still_answered(panel, monkeypatch):
    panel.wait(SOON)
    measure = type(panel)._measure

    def fails_once(self, move, config, method):
        if config.activation_bits == 3:
            panel.controls["activation_bits"].value = 5
            raise ValueError("too late to be told")
        measure(self, move, config, method)

    monkeypatch.setattr(type(panel), "_measure", fails_once)
    panel.controls["activation_bits"].value = 3
    assert (
        panel.wait(SOON).config.activation_bits == 5
        and panel.accuracy.n
        and "too late" not in panel._answer.value
    )


def test_an_interpreter_ends_well_while_a_panel_measures():
    code = """
import torch, qlib
bench = qlib.load_bench("digits")
qlib.explore(bench, images=10_000)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_method_is_a_control(own):
    panel = explore(*own, weight_bits=3).wait(SOON)
    method = next(w for w in shown(panel.widget) if getattr(w, "description", "") == "Method")
    assert method.options[0] == method.value == panel.method == "nearest" and "bias" in method.options
    method.value = "bias"
    corrected = qlib.quantize(panel.model, panel.config, panel.calibration, method="bias")
    found = panel.wait(SOON).accuracy
    assert (found.correct == qlib.evaluate(corrected, panel.validation).correct).all()
    assert "biases corrected" in panel.card["technique"] and "method=&#x27;bias&#x27;" in panel._card.value


def test_the_panel_measures_by_any_metric(own):
    network, calibration, validation = own
    noise = explore(network, calibration, [(x, None) for x, _ in validation], metric="sqnr").wait(SOON)
    quantized = qlib.quantize(network, noise.config, calibration)
    same = qlib.evaluate(quantized, validation, "sqnr", reference=network)
    assert noise.accuracy.value == same.value and noise.baseline is None
    assert f"<b>{same.value:.2f} dB</b>" in noise._answer.value and "In float" not in noise._answer.value
    assert noise.card["accuracy"]["unit"] == "dB"

    def largest(outputs, targets):
        return outputs.amax(1) * 1e-3

    own_metric = explore(*own, metric=largest).wait(SOON)
    assert (
        "<td><b>" in own_metric._answer.value and "qstrip" not in own_metric._answer.value.split("<table>")[0]
    )
    assert own_metric.baseline.metric.name == "largest"


@dataclasses.dataclass(frozen=True)
class Stochastic(QuantConfig):
    stochastic: bool = choice(False, "Stochastic rounding", "Whether codes are drawn.", since="mine")
    tries: int = choice(3, "Tries", "How often.", least=1, most=9, since="mine")


def test_a_choice_of_ones_own_is_a_control(own):
    panel = explore(*own, config_class=Stochastic, tries=2).wait(SOON)
    assert isinstance(panel.controls["stochastic"], ipywidgets.Checkbox)
    assert panel.controls["tries"].value == 2 and panel.controls["tries"].description == "Tries"
    panel.controls["stochastic"].value = True
    assert panel.wait(SOON).config == Stochastic(stochastic=True, tries=2)
    assert panel.card["stochastic"] is True and panel.card["tries"] == 2
    assert "Stochastic(stochastic=True, tries=2)" in panel._card.value
    with pytest.raises(ValueError, match="did you mean 'tries'"):
        explore(*own, config_class=Stochastic, tires=2)


@dataclasses.dataclass(frozen=True)
class Anything(QuantConfig):
    group: int | None = choice(None, "Group", "How many share a scale.", least=1, whole=True, since="mine")
    words: str = choice("so", "Words", "Any text.", since="mine")
    pair: tuple = choice((), "Pair", "Two texts.", schema={"type": "array"}, since="mine")


def test_every_kind_of_choice_has_a_control(own):
    panel = explore(*own, config_class=Anything).wait(SOON)
    assert panel.config == Anything() and panel.accuracy is not None
    panel.controls["group"].value = "32"
    panel.controls["words"].value = "else"
    assert panel.wait(SOON).config == Anything(group=32, words="else") and panel.card["group"] == 32
    panel.controls["group"].value = "[1"
    assert panel.wait(SOON).accuracy is None and "group must be a whole number" in panel._answer.value
    panel.controls["group"].value = "null"
    assert panel.wait(SOON).config.group is None and panel.accuracy is not None
