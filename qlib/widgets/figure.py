"""Interactive figures that need no kernel: one ES module each, with its data as JSON, in one piece of HTML.

The same HTML acts in JupyterLab, in Colab and on the published page, from a server or from disk. It asks no
other host for anything. A module exports ``{render}`` as anywidget expects it, so a figure can also be a
widget that talks to a kernel.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

MOUNT = """\
import figure from "{module}";
for (const el of document.querySelectorAll('[data-figure="{key}"]')) {{
  if (el.dataset.drawn) continue;
  el.dataset.drawn = true;
  const state = JSON.parse(el.querySelector("script[type='application/json']").textContent);
  const model = {{ get: (name) => state[name], set() {{}}, on() {{}}, save_changes() {{}} }};
  figure.render({{ model, el }});
}}
"""


@cache
def module(name: str) -> str:
    """The JavaScript of ``<name>.js`` here, with whatever it imports from beside it inside, and comments and
    indents gone.
    """
    text = files(__package__).joinpath(f"{name}.js").read_text("utf8")
    text = re.sub(r"^\s*(//.*|/\*\*.*\*/)?\n?", "", text, flags=re.M)
    return re.sub(r'"\./(\w+)\.js"', lambda found: f'"{_address(found[1])}"', text)


def _address(name: str) -> str:
    return "data:text/javascript;base64," + base64.b64encode(module(name).encode()).decode()


@dataclass(frozen=True)
class Figure:
    """A figure that a script draws. A notebook shows it as a cell's last value.

    Parameters
    ----------
    name : str
        ``<name>.js`` draws it.
    state : mapping
        From this: what JSON can hold.
    fallback : str
        HTML shown where no script runs, as in print made without one, and to search engines.
    """

    name: str
    state: Mapping[str, Any]
    fallback: str = ""

    def to_html(self) -> str:
        state = json.dumps(self.state, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        key = hashlib.sha256(f"{self.name} {state}".encode()).hexdigest()[:12]
        script = MOUNT.format(module=_address(self.name), key=key)
        return (
            f'<div class="qlib-figure" data-figure="{key}">'
            f'<script type="application/json">{state}</script>{self.fallback}</div>\n'
            f'<script type="module">\n{script}</script>'
        )

    def _repr_html_(self) -> str:
        return self.to_html()


def table(caption: str, rows: Mapping[str, str]) -> str:
    """Plain HTML for `Figure.fallback`: a name and a value a row."""
    cells = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows.items())
    return f"<table><caption>{escape(caption)}</caption>{cells}</table>"
