"""Figures and panels that a reader moves."""

from .panel import Panel, explore

__all__ = ["Panel", "explore"]
