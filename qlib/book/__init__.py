"""The tools that turn the notebooks into the book. Needs the extra `book`; nothing else in `qlib`
imports it.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_NOTE = "The sliders act in JupyterLab or Colab: open this notebook there."
