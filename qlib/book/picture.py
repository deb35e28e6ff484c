"""Draw the README's picture from the recorded rows.

python -m qlib.book.picture
"""

from qlib import plots, results
from qlib.book import ROOT


def main() -> None:
    plots.use_style()
    table = results.load_table(results.table_path("digits", "skip-residual"))
    (float_accuracy,) = results.accuracies(table, activation_bits=None)
    quantized = table[table.activation_bits.notna()].copy()
    pairs = zip(quantized.quantize_skip, quantized.quantize_residual, strict=True)
    quantized["placement"] = [plots.PLACEMENTS[pair].name for pair in pairs]
    shown = [plots.PLACEMENTS[mode] for mode in ((False, False), (True, False), (True, True))]
    colours = {placement.name: placement.colour for placement in shown}
    summary = results.summary(quantized, ["placement", "activation_bits"])
    axes = plots.accuracy_curves(
        summary, "activation_bits", "placement", colours, "activation bits", float_accuracy.top1
    )
    axes.figure.savefig(ROOT / "book" / "assets" / "figure.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
