"""Cards as Markdown, HTML, LaTeX and text: every field is said, and nothing of a stranger is executed."""

import re
import shutil
import subprocess

import pytest
from card_strategies import CARDS
from hypothesis import HealthCheck, given, settings

from qlib import QuantizationCard
from qlib.cards import CATEGORIES, FIELDS, catalogue, compare

BeautifulSoup = pytest.importorskip("bs4").BeautifulSoup
HOSTILE = "<script>alert(1)</script>\"' \\input{/etc/passwd} $x_1^2$ %#&~{} |*`_[a](javascript:x) \x1b[31m ☠"


def test_renderings_say_every_field(cards):
    for view in (str(cards[0]), cards[0].to_markdown(), cards[0].to_html()):
        plain = view.replace("\\", "")
        asked = [f["title"] for name, f in FIELDS.items() if cards[0].acts(name)]
        assert [title for title in asked if title not in plain] == []
        assert "Context" not in plain and "Bits of embeddings" not in plain  # which no image network has
        assert "72.3 %" in plain
    assert "72.3 \\%" in cards[0].to_latex() and "not reported" not in cards[0].to_latex()
    lines = QuantizationCard.of("x", pooling="float").to_latex().splitlines()
    assert [line for line in lines if line.startswith("Quantized op")][0].endswith(
        "\\textit{7 not reported} \\\\"
    )


def test_layers_left_in_float_are_named_up_to_sixteen():
    def views(names):
        card = QuantizationCard.of("x", weight_bits=8, float_layers=names)
        return card.to_markdown().replace("\\", ""), card.to_latex()

    for view in views(["fc", "layer1.*"]):
        assert "Layers left in float" in view and "fc, layer1.*" in view
    assert all("layer15 and 4 more" in view for view in views([f"layer{i}" for i in range(20)]))
    table, latex = views([])
    assert "| Layers left in float | none |" in table and "Layers left in float" not in latex


def test_html_of_a_stranger_holds_no_markup_of_theirs():
    card = QuantizationCard.of(
        HOSTILE, remarks=HOSTILE, authors=HOSTILE, technique=HOSTILE, sources={"technique": HOSTILE}
    )
    page = BeautifulSoup(card.to_html(), "html.parser")
    assert not page.select("script, a, img") and HOSTILE in page.caption.get_text()
    for cell in page.select("tbody tr"):
        assert cell.th["scope"] == "row" and cell.td


def test_markdown_of_a_stranger_holds_no_markup_of_theirs():
    text = QuantizationCard.of(HOSTILE, technique="a | b\n\n# c").to_markdown()
    assert "<script" not in text and "\\[a\\]\\(javascript" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows[1:])


def test_the_terminal_gets_no_control_characters():
    assert "\x1b" not in str(QuantizationCard.of(HOSTILE)) and "\x1b" not in compare.report(
        QuantizationCard.of(HOSTILE), QuantizationCard.of("b", technique="x"), []
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(tmp_path, cards):
    letters = "".join(chr(c) for c in range(0x20, 0x250))
    strangers = [
        QuantizationCard.of(name, remarks=HOSTILE, technique=name, deviations={"technique": [name]})
        for name in (HOSTILE, letters)
    ]
    for name, part in (("ours", [*cards, *catalogue().values()]), ("strangers", strangers)):
        page = "\n\n".join(card.to_latex() for card in part)
        (tmp_path / f"{name}.tex").write_text(
            f"\\documentclass{{article}}\\begin{{document}}{page}\\end{{document}}", "utf8"
        )
        done = subprocess.run(
            ["pdflatex", "-halt-on-error", f"{name}.tex"], cwd=tmp_path, capture_output=True, timeout=120
        )
        said = done.stdout.decode("latin1")
        assert done.returncode == 0, said[-800:]
        assert name == "strangers" or "Overfull" not in said, "wider than the page"


ALLOWED = re.compile(
    r"\\(?:begin|end)\{tabular\}|\\(?:hline|noindent|linewidth)\b|\\multicolumn\{2\}|\\text(?:bf|it)\{"
    r"|\\(?:text(?:backslash|asciicircum|asciitilde|less|greater|bar)|ldots)\{\}|\\(?:ss|ae|AE|oe|OE|o|O|l|L|i)\{\}"
    r"|\$(?:\||\\times|\\pm|\\ge|\\le)\$|\\[`'^~\"=u.rHvc]\{[A-Za-z]\}|\\[{}$&#_%]|\\\\"
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
def test_latex_holds_nothing_but_these_commands(card):
    latex = card.to_latex().replace("@{}", "")
    assert latex.isascii() and latex.count("{") - latex.count("\\{") == latex.count("}") - latex.count("\\}")
    assert len(re.findall(r"(?<!\\) & ", latex)) >= 1 + len(CATEGORIES)
    assert not set("\\$#%_^~") & set(ALLOWED.sub("", latex))


def test_latex_of_a_stranger_has_no_commands_of_theirs():
    latex = QuantizationCard.of(HOSTILE).to_latex()
    assert (
        r"\input" not in latex
        and r"\textbackslash{}input\{/etc/passwd\}" in latex
        and r"\$x\_1\textasciicircum{}2\$" in latex
    )


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_htmls_colours_can_be_read():
    from qlib.cards import render

    for style in (render.STYLE, render.DARK):
        colour = dict(re.findall(r"--(\w+): (#\w{6})", style))
        for text, ground in (("ink", "paper"), ("ink", "head"), ("link", "paper")):
            assert contrast(colour[text], colour[ground]) >= 4.5


TABLES = {  # the paper's, word by word where it speaks of choices
    "garg-table-3": """Uniform | Asymmetric | Per-channel weights, Per-tensor activations | Static quantizer parameters |
        Percentile clipping at 99.99th percentile for activations | Full precision skip connection |
        Full precision residual connection |
        Average pooling computed at high precision and requantized | 8 bit weights | Fixed activation bitwidth | First and last
        layer weights at 8 bits, output activations of first and last layer at 8 bits | 320 examples | Unlabeled training data |
        Baseline accuracy: 76 % | Quantized accuracy: figure 5""",  # noqa: E501
    "garg-table-4": """Uniform | Asymmetric | Per-channel weights, Per-tensor activations | Static quantizer parameters | Learned
        activation quantizer min/max | Quantized skip connection | Quantized residual connection | Average pooling computed at
        high precision and requantized | Mixed precision weights | Mixed precision activations | All layers quantized | Any
        integer bitwidth | 1,024 examples | Labeled training data | Baseline accuracy: 76 % | Quantized accuracy: table 2""",  # noqa: E501
}


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_tables_render_like_the_papers(name):
    said = catalogue()[name].to_latex().replace("\\%", "%").replace("&", "$|$").replace("\\\\\n", "$|$")
    parts = [part.strip() for part in said.split("$|$")]
    wanted = [" ".join(w.split()) for w in TABLES[name].split("|")]
    places = [next(i for i, part in enumerate(parts) if part.startswith(phrase)) for phrase in wanted]
    assert places == sorted(places)
    assert [line.split(" & ")[0] for line in catalogue()[name].to_latex().splitlines() if " & " in line][
        1:6
    ] == [
        "Quantization method",
        "Quantized operations",
        "Mixed precision",
        "Resource complexity",
        "Pretrained model",
    ]
