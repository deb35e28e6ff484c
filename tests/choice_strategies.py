"""Values of choices, from what is stated about them: a new choice whose values are words, a switch or a
bounded number is in the tests that draw or change choices.
"""

from hypothesis import strategies as st

from qlib import QuantConfig
from qlib.choices import choices

DEFAULTS = QuantConfig.defaults()
# By name, the values of choices that are words or switches
VALUES = {
    name: known.values or (False, True)
    for name, known in choices(QuantConfig).items()
    if known.values or isinstance(DEFAULTS[name], bool)
}


def allowed():
    """By name, a strategy for each choice whose values are words, a switch, or a number between bounds."""
    bounded = {name: known for name, known in choices(QuantConfig).items() if known.most is not None}
    numbers = {name: _between(known, DEFAULTS[name]) for name, known in bounded.items()}
    return {name: st.sampled_from(values) for name, values in VALUES.items()} | numbers


def _between(known, default):
    if isinstance(default, int):
        return st.integers(int(known.least), int(known.most))
    least = known.above if known.least is None else known.least
    return st.floats(least, known.most, exclude_min=known.least is None)


def possible(fields):
    """The fields, changed where a value needs another field's, or a side that is not left in float."""
    fields = dict(fields)
    for name, known in choices(QuantConfig).items():
        if known.needs and (needed := known.needs.get(fields.get(name))) is not None:
            fields[needed[0]] = needed[1]
    for name, side in (("embedding_bits", "weight_bits"), ("kv_bits", "activation_bits")):
        if fields.get(side, 8) is None:
            fields.pop(name, None)
    return fields


def other_values():
    """By name, a value that is not the default and needs no other, of each choice whose values are words or a
    switch.
    """
    known = choices(QuantConfig)
    return {
        name: next(v for v in reversed(values) if v != DEFAULTS[name] and v not in known[name].needs)
        for name, values in VALUES.items()
    }
