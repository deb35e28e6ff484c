"""Where the project lives: read from `_config.yml`, written into the set-up cell of every notebook.

python -m qlib.book.address
"""

import nbformat
import yaml

from qlib.book import ROOT
from qlib.files import whole

SETUP_TAG = "setup"
SETUP_CELL = """\
# Needed in Colab only: fetch the book and install its package. Elsewhere both are already here.
import sys

if "google.colab" in sys.modules:
    !git clone -q --depth 1 {url}
    %pip install -q -e {name} anywidget
    sys.path.insert(0, "/content/{name}")"""


def repository() -> str:
    """The address of the repository, `https://github.com/<owner>/<name>`."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    return config["repository"]["url"]


def is_placeholder(url: str) -> bool:
    """Whether the owner in `url` is still to be filled in."""
    return "/OWNER/" in url


def site(url: str) -> str:
    """Where GitHub Pages publishes the repository at `url`, with a slash at its end; empty for a placeholder
    or another host. A domain of one's own goes into `_config.yml`, as `baseurl` under `html`.
    """
    host, _, slug = url.rstrip("/").removeprefix("https://").partition("/")
    if is_placeholder(url) or host != "github.com" or slug.count("/") != 1:
        return ""
    owner = slug.lower().split("/")[0]
    name = slug.split("/")[1]
    return f"https://{owner}.github.io/" + ("" if name.lower() == f"{owner}.github.io" else f"{name}/")


def setup_cell(url: str) -> str:
    """The source of a notebook's set-up cell for a repository at `url`."""
    return SETUP_CELL.format(url=url, name=url.rstrip("/").rsplit("/", 1)[-1])


def main() -> None:
    source = setup_cell(repository())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        for cell in notebook.cells:
            if SETUP_TAG in cell.metadata.get("tags", []):
                cell.source = source
        with whole(path) as temporary:
            nbformat.write(notebook, temporary)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
