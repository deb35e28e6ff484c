"""Quantization cards (paper, section 3): made by a run, checked against a schema, rendered, compared."""

from .card import CATEGORIES, FIELDS, NOT_REPORTED, SCHEMA, QuantizationCard

__all__ = ["CATEGORIES", "FIELDS", "NOT_REPORTED", "SCHEMA", "QuantizationCard"]
