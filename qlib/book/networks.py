"""Which networks can be read: classification networks of three libraries, with random weights, through
`quantize`.

``python -m qlib.book.networks [library or network ...]`` measures those that ``book/results/networks.csv``
lacks, and writes the table after each, so it may be stopped and started again. The page shows that table.
"""

from __future__ import annotations

import importlib
import sys
import time
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from qlib import QuantConfig, quantize
from qlib.book import ROOT
from qlib.files import write_whole
from qlib.network import Kind, read
from qlib.network.operations import BATCH_NORMS
from qlib.provenance import commit

TABLE = ROOT / "book" / "results" / "networks.csv"
COLUMNS = (
    "library",
    "network",
    "version",
    "pixels",
    "statistics",
    "read",
    "layers",
    "additions",
    "products",
    "error_float",
    "error_16",
    "error_8",
    "reason",
    "seconds",
    "torch",
    "commit",
    "date",
)
IMAGES = 4
SIZES = (64, 96, 128, 224, 256, 299)  # in pixels; the first that a network takes
LARGE = ("regnet_y_128gf", "vit_h_14")  # measured last: they need 10 GB of memory
SPREAD = 1e-3  # of outputs over images, relative to their size: with less, they hardly depend on the image
LIMIT = 0.02  # of the error at 16 bits
EIGHT = QuantConfig(first_last_bits=None)
SIXTEEN = QuantConfig(16, 16, input_bits=16, first_last_bits=None)
NETWORKS = {  # of torchvision all; of the others one, a small one, for each of many families
    "pytorchcv": """alexnet zfnet vgg11 bninception resnet18 preresnet18 resnext14_16x4d seresnet18
        sepreresnet18 seresnext50_32x4d senet16 resnesta18 ibn_resnet50 ibnb_resnet50 airnet50_1x64d_r2
        bam_resnet18 cbam_resnet18 resattnet56 sknet50 scnet50 regnetx002 diaresnet18 diracnet18v2 sharesnet18
        densenet121 condensenet74_c4_g4 peleenet darknet_tiny channelnet revnet38 msdnet22 espnetv2_wd2
        vovnet27s hardnet39ds squeezenet_v1_0 sqnxt23_w1 shufflenet_g1_w1 shufflenetv2_wd2 menet108_8x1_g3
        mobilenet_wd4 fdmobilenet_wd4 mobilenetv2_wd4""".split(),
    "timm": """vit_tiny_patch16_224 deit3_small_patch16_224 beit_base_patch16_224 eva02_tiny_patch14_224
        cait_xxs24_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 pit_ti_224
        tnt_s_patch16_224 convit_tiny crossvit_9_240 xcit_nano_12_p16_224 volo_d1_224 levit_128s pvt_v2_b0
        twins_pcpvt_small visformer_tiny coat_lite_mini davit_tiny gcvit_xxtiny focalnet_tiny_srf mvitv2_tiny
        hiera_tiny_224 nest_tiny tiny_vit_5m_224 efficientformer_l1 efficientformerv2_s0 efficientvit_b0
        efficientvit_m0 mobilevit_xxs swiftformer_xs shvit_s1 edgenext_xx_small
        coatnet_nano_rw_224""".split(),
}


def names(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return torchvision.models.list_models(module=torchvision.models)
    return NETWORKS[library]


LIBRARIES = ("torchvision", *NETWORKS)


def network(library: str, name: str, x: Tensor) -> tuple[nn.Module, str]:
    """With random weights that leave no branch out, in evaluation mode, after a pass of ``x`` with batch
    norms in training mode; and how much of that pass's statistics these took: what their ``momentum`` says,
    or, if the outputs then hardly depend on the image, the ``whole``.
    """
    torch.manual_seed(0)
    if library == "torchvision":
        options = {"image_size": x.shape[-1]} if name.startswith("vit") else {}
        model = importlib.import_module("torchvision").models.get_model(name, weights=None, **options)
    elif library == "pytorchcv":
        model = importlib.import_module("pytorchcv.model_provider").get_model(name)
    else:
        model = importlib.import_module("timm").create_model(name)
    for path, parameter in model.named_parameters():
        if parameter.dim() > 1 and not parameter.any():  # heads and layers that start at zero
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif (
            not path.endswith("bias")
            and parameter.numel() == max(parameter.shape, default=0)
            and parameter.abs().max() < 0.01
        ):
            # a factor for every channel that all but switches a branch off
            nn.init.ones_(parameter)
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    for statistics in ("momentum", "whole") if norms else ("",):
        model.eval()
        for norm in norms:
            norm.train().reset_running_stats()
            norm.momentum = None if statistics == "whole" else norm.momentum
        with torch.no_grad():
            model(x)
            outputs = model.eval()(x)
        if (outputs - outputs.mean(0)).norm() > SPREAD * outputs.norm():
            break
    return model, statistics


def error(actual: Tensor, expected: Tensor) -> float:
    """Relative to what tells images apart: the norm of the difference over that of ``expected`` less its mean
    over images.
    """
    return ((actual - expected).norm() / (expected - expected.mean(0)).norm()).item()


def measure(library: str, name: str) -> dict[str, object]:
    """A row of the table, without where it comes from."""
    for pixels in SIZES:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(IMAGES, 3, pixels, pixels, generator=generator)
        try:
            model, statistics = network(library, name, x)
            break
        except Exception as problem:  # whatever a network says to an image of the wrong size
            reason = problem
    else:
        return {
            "read": False,
            "reason": f"it takes no image of {SIZES[0]} to {SIZES[-1]} pixels: {_one_line(reason)}",
        }
    row = {"pixels": pixels, "statistics": statistics, "read": False}
    try:
        found = read(model)
        kinds = [operation.kind for operation in found.operations.values()]
        row |= {
            "read": True,
            "layers": len(found.layers),
            "additions": kinds.count(Kind.ADD),
            "products": kinds.count(Kind.PRODUCT),
        }
        with torch.no_grad():
            expected = model(x)
            row["error_float"] = error(found.module(x), expected)
            del found
            for column, config in (("error_16", SIXTEEN), ("error_8", EIGHT)):
                row[column] = error(quantize(model, config, x)(x), expected)
    except ValueError as problem:
        row["reason"] = _one_line(problem)
    return row


def passes(row: pd.Series) -> bool:
    return row["error_16"] < LIMIT


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split()).split(" Control flow that depends")[0][:300]


def load(path: Path = TABLE) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))


def summary(table: pd.DataFrame) -> str:
    """How many networks of every library can be read and pass, as Markdown."""
    lines = [
        "| library | networks | read | within the limit at 16 bits | median error at 16 bits | at 8 bits |",
        "| --- " * 6 + "|",
    ]
    for library, rows in table.groupby("library", sort=False):
        passed = rows.apply(passes, axis=1).sum()
        lines.append(
            f"| {library} {', '.join(sorted(set(rows.version)))} | {len(rows)} | {rows.read.sum()} | "
            f"{passed} "
            f"({passed / len(rows):.0%}) | {rows.error_16.median():.2%} | {rows.error_8.median():.0%} |"
        )
    measured = set(zip(table.library, table.network, strict=True))
    missing = [name for library in LIBRARIES for name in names(library) if (library, name) not in measured]
    return "\n".join([*lines, *(["", f"Not measured yet: {', '.join(missing)}."] if missing else [])])


def rows_table(table: pd.DataFrame) -> str:
    """A row a network, as HTML; the script beside the page sorts and filters it."""
    heads = (
        "Network",
        "Library",
        "Pixels",
        "Statistics",
        "Layers",
        "Additions",
        "Products",
        "Error in float",
        "At 16 bits",
        "At 8 bits",
        "Why not",
    )
    rows = []
    for row in table.to_dict("records"):
        counts = [
            "" if pd.isna(row[name]) else f"{row[name]:.0f}"
            for name in ("pixels", "layers", "additions", "products")
        ]
        cells = [
            row["library"],
            counts[0],
            "" if pd.isna(row["statistics"]) else row["statistics"],
            *counts[1:],
        ]
        cells += [
            "" if pd.isna(row[name]) else _percent(row[name])
            for name in ("error_float", "error_16", "error_8")
        ]
        reason = row["reason"] if isinstance(row["reason"], str) else ""
        reason = reason or ("" if passes(row) else f"the error at 16 bits is not below {LIMIT:.0%}")
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (*cells, reason))
        rows.append(f'<tr><th scope="row">{escape(row["network"])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        '<div class="catalogue" role="region" aria-label="Networks, a wide table" tabindex="0">'
        "<table><caption>Networks with random weights, and what quantizing them changes</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def as_markdown() -> str:
    table = load()
    return f"{summary(table)}\n\n{rows_table(table)}"


def main(wanted: list[str]) -> None:
    torch.set_num_threads(1)
    for library in LIBRARIES:
        try:
            made_by = version(library)
        except PackageNotFoundError:
            print(f"{library} is not installed: its networks are left out", file=sys.stderr)
            continue
        for name in sorted(names(library), key=LARGE.__contains__):
            table = load()
            if ((table.library == library) & (table.network == name)).any() or (
                wanted and not {library, name} & set(wanted)
            ):
                continue
            start = time.perf_counter()
            row = measure(library, name)
            row |= {
                "library": library,
                "network": name,
                "version": made_by,
                "seconds": round(time.perf_counter() - start, 1),
                "torch": str(torch.__version__),
                "commit": commit(),
                "date": time.strftime("%Y-%m-%d"),
            }
            row = {k: float(f"{v:.3g}") if k.startswith("error") else v for k, v in row.items()}
            rows = [*load().to_dict("records"), row]
            order = {key: i for i, key in enumerate((lib, n) for lib in LIBRARIES for n in names(lib))}
            rows.sort(key=lambda r: order.get((r["library"], r["network"]), len(order)))
            write_whole(TABLE, pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False))
            print(
                f"{library} {name}: {row.get('error_16')} {row.get('error_8')} {row.get('reason', '')}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
