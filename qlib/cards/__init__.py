"""Quantization cards (paper, section 3): made by a run, checked against a schema, rendered, compared."""

from functools import cache
from importlib.resources import files

from .card import QuantizationCard
from .fields import NOT_REPORTED, PLAIN, fields_of

SCHEMA = PLAIN.schema
CATEGORIES = PLAIN.categories
FIELDS = dict(PLAIN)

__all__ = ["CATEGORIES", "FIELDS", "NOT_REPORTED", "SCHEMA", "QuantizationCard", "catalogue", "fields_of"]


@cache
def catalogue() -> dict[str, QuantizationCard]:
    """Cards of published methods by short name, with a source for every field; ``not reported`` where we did
    not find it.
    """
    folder = files(__package__) / "catalogue"
    paths = sorted(
        (path for path in folder.iterdir() if path.name.endswith(".yaml")), key=lambda path: path.name
    )
    return {
        path.name.removesuffix(".yaml"): QuantizationCard.from_yaml(path.read_text("utf8")) for path in paths
    }
