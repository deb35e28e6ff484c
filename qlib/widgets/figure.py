"""Interactive figures that need no kernel: one ES module each, with its data as JSON, in one piece of HTML.

The same HTML acts in JupyterLab, in Colab and on the published page, from a server or from disk. It asks no
other host for anything. A module exports ``{render}`` as anywidget expects it, so a figure can also be a
widget that talks to a kernel.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
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


IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.\.?/[\w/]+)\.js";$', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:const|class|function) (\w+))", re.M)


@cache
def module(name: str) -> str:
    """The JavaScript of ``<name>.js`` here. Each module that it imports by its place, itself or through
    another, stands inside once: as what a function of its own returns.
    """
    inside = [f"const {_variable(each)} = (() => {{\n{_body(each)}}})();\n" for each in _imported(name)]
    return "".join(inside) + _linked(name)


def _text(name: str) -> str:
    """Without comments and indents."""
    text = files(__package__).joinpath(f"{name}.js").read_text("utf8")
    return re.sub(r"^\s*(//.*|/\*\*.*\*/)?\n?", "", text, flags=re.M)


def _imported(name: str) -> list[str]:
    """The modules within a module, each after those that it imports itself."""
    own = [_beside(name, each) for _, each in IMPORT.findall(_text(name))]
    return list(dict.fromkeys(inner for each in own for inner in (*_imported(each), each)))


def _beside(name: str, place: str) -> str:
    """The name of a module that ``name`` imports from ``place``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), place))


def _variable(name: str) -> str:
    return "$" + name.replace("/", "_")


def _linked(name: str) -> str:
    return IMPORT.sub(lambda m: f"const {{{m[1]}}} = {_variable(_beside(name, m[2]))};", _text(name))


def _body(name: str) -> str:
    """A module as the body of a function that returns what it exports."""
    text = _linked(name)
    return f"{EXPORT.sub('', text)}return {{ {', '.join(EXPORT.findall(text))} }};\n"


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
