"""Cards of every kind that the schema allows, for hypothesis."""

from hypothesis import strategies as st

from qlib import QuantizationCard
from qlib.cards import FIELDS, SCHEMA

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=80).filter(
    lambda t: t.strip()
)


def values_of(schema):
    """Whatever a part of the card's schema allows."""
    if "$ref" in schema:
        return values_of(SCHEMA["$defs"][schema["$ref"].split("/")[-1]])
    if "anyOf" in schema:
        return st.one_of([values_of(kind) for kind in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    least = schema.get("minimum", 0)
    most = schema.get("maximum", 10**9)
    kind = schema["type"]
    if kind == "array":
        return st.lists(values_of(schema["items"]), min_size=1, max_size=5)
    if kind == "object" and "properties" in schema:
        return st.fixed_dictionaries({name: values_of(part) for name, part in schema["properties"].items()})
    if kind == "object":
        return st.dictionaries(TEXT, values_of(schema["additionalProperties"]), min_size=1, max_size=5)
    if kind == "string" and "pattern" in schema and "^" in schema["pattern"]:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda t: len(t) <= 100)
    return {
        "boolean": st.booleans(),
        "integer": st.integers(least, most),
        "string": TEXT,
        "number": st.floats(least, most) | st.integers(least, most),
    }[kind]


VALUES = {name: values_of(field) for name, field in FIELDS.items()}
DEVIATIONS = st.lists(
    TEXT | st.booleans() | st.integers(-99, 99) | st.floats(-99, 99), min_size=1, max_size=3
)
TOP = {
    "name": TEXT,
    "authors": TEXT,
    "remarks": TEXT,
    "link": values_of(SCHEMA["properties"]["link"]),
    "deviations": st.dictionaries(st.sampled_from(list(FIELDS)), DEVIATIONS, max_size=3),
    "sources": st.dictionaries(st.sampled_from(list(FIELDS)), TEXT, max_size=3),
}
CARDS = st.builds(
    lambda top, fields: QuantizationCard.of(**top, **fields),
    st.fixed_dictionaries(TOP),
    st.fixed_dictionaries({}, optional=VALUES),
)
