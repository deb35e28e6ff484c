"""Interactive figures: a panel that needs a kernel, and figures that act on the published page as well."""

from .panel import Panel, explore

__all__ = ["Panel", "explore"]
