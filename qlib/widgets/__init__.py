"""Interactive figures: panels that need a kernel, and figures that act on the published page as well."""

from .panel import LivePanel, slider, switch

__all__ = ["LivePanel", "slider", "switch"]
