"""Tables and figures as files."""

import json
import shutil

import pandas as pd
import pytest

import probekit as pk
import synthetic_run
from probekit.errors import BadInput
from probekit.results import figures
from probekit.results.looks import COLUMN, PAGE, on_paper
from probekit.results.report.files import escaped, to_latex, write_table
from probekit.results.reported import Reported


@pytest.fixture(scope="module")
def frame():
    return pk.read_run(synthetic_run.shared_run())


def test_a_table_is_read_back(frame, tmp_path):
    table = pk.table("leak_map", frame)
    for name in ("t.csv", "t.parquet", "t.tex"):
        write_table(table, tmp_path / name)
    back = pd.read_parquet(tmp_path / "t.parquet")
    assert back["value"].tolist() == table["value"].tolist() and list(back.columns) == list(table.columns)
    assert pd.read_csv(tmp_path / "t.csv")["value"].to_numpy() == pytest.approx(table["value"].to_numpy(float))
    text = (tmp_path / "t.tex").read_text()
    assert text.count(r"\\") == len(table) + 1 and r"\toprule" in text and "L0 resid\\_post" in text
    with pytest.raises(BadInput, match=r"\.csv, \.parquet or \.tex"):
        write_table(table, tmp_path / "t.xlsx")


@pytest.mark.parametrize("kind", ["frontier", "transfer_matrix", "layers", "provenance", "crossing"])
def test_every_kind_of_table_is_latex(frame, kind):
    text = to_latex(pk.table(kind, frame), "a caption")
    body = text.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    width = text.split("\\begin{tabular}{")[1].split("}")[0].count("l")
    assert body and all(line.replace(r"\&", "").count("&") == width - 1 for line in body)


def test_a_name_is_no_command():
    assert escaped(r"\input{x} & 5 % of $a_b^c$ #~<>") == (
        r"\textbackslash{}input\{x\} \& 5 \% of \$a\_b\textasciicircum{}c\$ \#\textasciitilde{}\textless{}"
        r"\textgreater{}"
    )
    assert "\n" not in escaped("a\n\\end{table}\nb")


def test_paper_is_narrow_plain_and_leaves_the_figure_as_it_was(frame):
    made = figures.figure("layer_curves", frame, level="linear")
    before = json.loads(made.to_json())  # keys have no order
    paper = on_paper(made)
    assert json.loads(made.to_json()) == before
    assert paper.layout.width == COLUMN and paper.layout.title.text is None and paper.layout.paper_bgcolor == "#ffffff"
    assert abs(paper.layout.font.size * 72 / 96 - 8) < 0.1  # points
    assert on_paper(figures.figure("leak_map", frame)).layout.width == PAGE


@pytest.mark.parametrize("kind", figures.KINDS)
def test_every_figure_can_be_put_on_paper(frame, kind):
    paper = on_paper(figures.figure(kind, frame))
    assert paper.layout.height >= 220 and paper.layout.width in (COLUMN, PAGE)


def test_another_style_is_one_sentence(frame, tmp_path):
    with pytest.raises(BadInput, match="screen, slide or paper"):
        figures.write_figure(figures.figure("frontier", frame), tmp_path / "a.html", "poster")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: PNG, SVG and PDF are not drawn")
def test_pictures_are_drawn(frame, tmp_path):
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    made = figures.figure("layer_curves", frame, level="linear")
    begins = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
    for ending, head in begins.items():
        figures.write_figure(made, tmp_path / f"a{ending}", "paper")
        assert (tmp_path / f"a{ending}").read_bytes().startswith(head)


def test_published_shares_are_open_marks_in_layer_curves(frame):
    hook = "blocks.2.hook_resid_post"
    asked = [Reported("Smith <b>", 0.5, hook), Reported("of AUROC", 0.9, hook, metric="auroc"),
             Reported("nowhere", 0.5, "blocks.99.hook_resid_post")]  # fmt: skip
    made = figures.figure("layer_curves", frame, level="linear", reported=asked)
    marks = [trace for trace in made.data if trace.marker.symbol == "circle-open" and "published" in (trace.name or "")]
    assert [trace.name for trace in marks] == ["Smith &lt;b&gt; (published)"]
    assert (
        list(marks[0].y) == [0.5]
        and "apart" in marks[0].customdata[0]
        and "<b>Smith &lt;b&gt;" in marks[0].customdata[0]
    )
    with pytest.raises(BadInput, match="drawn in layer_curves"):
        figures.figure("frontier", frame, reported=asked)
