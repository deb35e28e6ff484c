"""How soon the page's own panel answers a moved slider, in a browser, in milliseconds; and whether its memory
stays as it is.

`benchmarks/README.md` says how to read the table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from qlib.widgets.engine import bundle
from qlib.widgets.measuring import measuring_panel

# By row, the slider that moves, and what stands while it does
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "weights, minmax": ("Weight bits", {}),
    "weights, percentile": ("Weight bits", {"weight_range": "percentile"}),
    "weights, mse": ("Weight bits", {"weight_range": "mse"}),
    "activations, minmax": ("Activation bits", {}),
    "activations, mse": ("Activation bits", {"activation_range": "mse"}),
    "activations, mse found here": (
        "Activation bits",
        {"activation_range": "mse", "activation_symmetric": True},
    ),
    "activations, a range per image": ("Activation bits", {"activation_dynamic": True}),
}
WARM = 300  # moves until the browser's own memory has settled
PLACES = range(1, 15)  # of a slider, 2 to 15 bits: more than the page remembers
COUNTS = (64, 256, 2000)
PAGE = (
    '<!doctype html><html lang="en" data-content_root="./"><meta charset="utf-8"><body>{html}</body></html>'
)

# The milliseconds until so many images are answered, after a slider moves to a place
MOVE = """([label, place, counts]) => new Promise((done) => {
  const root = document.querySelector('.qlib-figure > div').shadowRoot,
    slider = root.querySelector(`input[aria-label="${label}"]`), began = performance.now(), times = {};
  const watch = new MutationObserver(() => {
    const shown = root.querySelector('[data-top1]')?.parentElement.textContent.match(/ of ([\\d,]+) images/);
    if (!shown) return;
    const n = Number(shown[1].replaceAll(',', ''));
    for (const count of counts) if (n >= count) times[count] ??= performance.now() - began;
    if (n >= counts.at(-1)) { watch.disconnect(); done(counts.map((count) => times[count])); }
  });
  root.querySelector('[data-top1]')?.parentElement.remove();
  watch.observe(root, { subtree: true, childList: true });
  slider.value = place;
  slider.dispatchEvent(new Event('input'));
})"""


def run(
    browser: Any,
    folder: Path,
    repeats: int,
    moves: int,
    settings: tuple[str, ...] = tuple(SETTINGS),
    warm: int = WARM,
) -> None:
    """Print the table, and the megabytes of the page before and after ``moves`` moves."""
    print(f"{'':32}" + "".join(f"{f'{count:,} images':>14}" for count in COUNTS))
    for label in settings:
        slider, fields = SETTINGS[label]
        page = opened(browser, folder, fields)
        rows = [page.evaluate(MOVE, [slider, place_of(i), COUNTS]) for i in range(repeats + 1)][1:]
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{label:32}" + "".join(f"{ms:14.0f}" for ms in medians), flush=True)
        page.close()
    page = opened(browser, folder, {})
    before = 0.0
    for i in range(warm + moves):
        if i == warm:
            before = megabytes(browser)
        page.evaluate(MOVE, ["Weight bits", place_of(i), COUNTS[:1]])
    print(f"{before:.0f} MB of memory before {moves} moves, {megabytes(browser):.0f} MB after them")
    page.close()


def place_of(move: int) -> int:
    return PLACES[move % len(PLACES)]


def megabytes(browser: Any) -> float:
    """That the processes of the browser's pages hold, workers included."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    pages = [Path(f"/proc/{p['id']}/statm") for p in processes if p["type"] == "renderer"]
    return sum(int(path.read_text().split()[1]) for path in pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def opened(browser: Any, folder: Path, fields: dict[str, Any]) -> Any:
    (folder / "panel.html").write_text(PAGE.format(html=measuring_panel(**fields).to_html()), "utf8")
    page = browser.new_page()
    page.goto((folder / "panel.html").as_uri())
    page.get_by_role("button", name="Load the network").click()
    page.get_by_text("In float").wait_for(timeout=120_000)
    return page


def write(folder: Path) -> None:
    """What the panel needs."""
    files = folder / bundle.FOLDER
    files.mkdir(parents=True)
    (files / "engine.js").write_text(bundle.script("engine", bundle.engine()), "utf8")
    (files / "digits-base.js").write_text(bundle.script("digits-base", bundle.network("base")), "utf8")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--moves", type=int, default=500)
    arguments = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for path in map(shutil.which, names) if path), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        write(Path(folder))
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        print(f"Chromium {browser.version}")
        run(browser, Path(folder), arguments.repeats, arguments.moves)
        browser.close()


if __name__ == "__main__":
    main()
