"""Made-up rows of methods crossed with choices, whose answers are known."""

import numpy as np

from qlib import headline
from qlib.headline import crossing

IMAGES = 200
METHOD = {"nearest": -0.02, "bias correction": 0.0, "equalized + bias": 0.01, "GPTQ": 0.02, "AdaRound": 0.03}
CELL = {"per tensor": -0.2, "restricted": -0.05}


def accuracy(method, cell):
    return 0.7 + METHOD.get(method, 0.04) + sum(CELL.get(level, 0.0) for level in cell)


def planned(setting, table, accuracy=accuracy):
    """Made-up rows of all runs of a grid."""
    found = {}
    for network, method, cell in keys_of(setting, table):
        found[network, method, cell] = np.arange(IMAGES) < round(IMAGES * accuracy(method, cell))
    return found


def keys_of(setting, table):
    for run in headline.runs(table):
        row = {**run.config.to_dict(), "calibration_images": run.calibration_images}
        if crossing._of_setting(setting, row):
            yield run.network, headline.names()[run.method], headline.level_words(row)


def eighty(setting):
    """Accuracies in float of the networks of a setting."""
    tables = headline.plan()["settings"][setting]["tables"]
    return dict.fromkeys(headline.grid(tables[0]).networks, 80.0)
