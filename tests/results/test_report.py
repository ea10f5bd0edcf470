"""Pages that are taken away: whole without a network, small, and text stays text whatever it says."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

import probekit as pk
import synthetic_run
from probekit.errors import BadInput
from probekit.records import Record
from probekit.results.looks import PALETTES, contrast
from probekit.results.report.card import card, card_page, cards
from probekit.results.report.drawings import Curve, bar, curves
from probekit.results.report.markup import Markup, el, table
from probekit.results.report.page import report, rounded
from probekit.results.report.site import site
from probekit.results.reported import Reported
from rows_by_hand import SITES, rows_by_hand, write_rows_by_hand

HOSTILE = "<script>alert(1)</script><img src=http://example.org/x onerror=alert(1)>\x1b[31m\u202e&amp;\"'"
LOADS = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "formaction", "background"}


class Page(HTMLParser):
    """Elements, addresses and whether every element that was opened is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.addresses, self.events, self.open, self.text, self.policy = [], [], [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.policy += dict(attrs)["content"] if ("http-equiv", "Content-Security-Policy") in attrs else ""
        self.addresses += [value for name, value in attrs if name in LOADS]
        self.events += [name for name, _ in attrs if name.startswith("on")]
        if tag in ("meta", "link", "br", "hr", "img"):
            self.open.pop()

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "br", "hr", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def is_safe(text, local=()):
    """Nothing is loaded or run, everything is closed; links lead into the page, or to files beside it."""
    page = Page(text)
    assert page.open == [] and not page.events
    assert not {"script", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    assert all(address.startswith("#") or address == "data:," or address in local for address in page.addresses)
    assert page.policy.startswith("default-src 'none';") and "script-src" not in page.policy
    assert not re.findall(r"url\(|@import", text)
    return page


@pytest.fixture(scope="module")
def run():
    return pk.open_run(synthetic_run.shared_run())


@pytest.fixture(scope="module")
def page(run):
    return report(run, other=run, previous=run)


def test_a_report_is_one_small_file_that_loads_nothing(page):
    found = is_safe(page)
    assert len(page.encode()) < 3_000_000
    for title in ("Where", "The chosen cell", "On which examples", "Beside another run",
                  "How far to trust it", "Other behaviours", "Provenance"):  # fmt: skip
        assert title in found.text, title
    assert found.tags.count("svg") >= 1 and found.tags.count("table") >= 5


def test_a_report_tells_what_the_run_does(run, page):
    text = Page(page).text
    assert pk.summary(run.records).headline.sentences[0] in text
    assert "equal, number for number" in text
    assert "passed" in text and "not measured" in text
    assert "keeps no bits per row" in text  # this run kept no rows, and says so


def test_text_of_every_kind_stays_text(run):
    """A hostile name of everything that has one."""
    other = dataclasses.replace(run)
    frame = run.records.copy()
    for column in ("behaviour", "model", "revision", "task"):
        frame[column] = frame[column].where(frame[column].str.startswith("feature:"), HOSTILE)
    for column in ("fit_domain", "test_domain"):
        frame[column] = frame[column].replace("random", HOSTILE)
    manifest = json.loads(json.dumps(run.manifest))
    manifest["provenance"]["behaviours"] = {HOSTILE: {"agrees": {HOSTILE: 0.5}}}
    manifest["cells"]["failed"] = [{"cell": HOSTILE, "error": HOSTILE}]
    frame.attrs = {"manifest": manifest}
    object.__setattr__(other, "records", frame)
    text = report(other, other=other, reported=[Reported(HOSTILE, 0.5, "blocks.0.hook_resid_post")])
    assert "alert(1)" in is_safe(text).text
    assert "\x1b" not in text and "\u202e" not in text
    assert "alert(1)" in is_safe(card_page(card(other))).text


def test_examples_are_shown_as_they_are(tmp_path):
    records, frames, _ = rows_by_hand()
    write_rows_by_hand(tmp_path, "rows")
    folder = pk.open_run(tmp_path / "rows")
    text = Page(report(folder, behaviour="answer")).text
    assert "bits missed" in text and "text 38" in text
    assert "What would change this" in text
    assert "Read alike, treated differently" in text and "Confident, consistent and wrong" in text
    assert "\x1b" not in text
    assert len(records) > 0 and set(frames)


def test_what_differs_in_a_pair_is_marked(tmp_path):
    write_rows_by_hand(tmp_path, "rows")
    text = report(pk.open_run(tmp_path / "rows"), behaviour="answer")
    assert "<mark>france</mark>" in text and "<mark>spain</mark>" in text


def test_a_run_that_found_nothing_still_has_a_page(tmp_path):
    from probekit.storage.runwriter import RunWriter

    writer = RunWriter.open(tmp_path, "nothing", {"name": "nothing"}, 1)
    at = {"behaviour": "answer", "fit_domain": "all", "test_domain": "all", "metric": "read", "level": "linear"}
    writer.write_cell("cell", [Record(**at, hook=f"blocks.{i}.hook_resid_post", na_reason="failed") for i in range(2)],
                      [], seconds=1.0)  # fmt: skip
    writer.finish({})
    folder = pk.open_run(tmp_path / "nothing")
    assert "no value at any site" in is_safe(report(folder)).text
    assert card(folder)["finding"] is None and "no value at any site" in is_safe(card_page(card(folder))).text


def test_markup_escapes_all_that_it_did_not_make():
    assert el("p", "<b>", Markup("<i>x</i>"), ["&", None, 3]) == "<p>&lt;b&gt;<i>x</i>&amp;3</p>"
    assert el("a", "x", href='" onclick="alert(1)') == '<a href="&quot; onclick=&quot;alert(1)">x</a>'
    assert "&lt;td&gt;" in table(("a",), [("<td>",)])
    assert el("rect", stroke_width=2, class_="x") == '<rect stroke-width="2" class="x"/>'


def test_a_line_is_not_drawn_across_what_was_not_measured():
    nan = float("nan")
    whole = Curve("a", "#000000", "", ((0, 0.5, 0.4, 0.6), (1, 0.4, 0.3, 0.5), (2, 0.3, 0.2, 0.4), (3, 0.2, 0.1, 0.3)))
    broken = dataclasses.replace(whole, points=(*whole.points[:2], (2, nan, nan, nan), whole.points[3]))
    places = ["L0", "L1", "L2", "L3"]
    lines = [curves([curve], places, "t", "b", gaps).count("<path") for curve, gaps in
             ((whole, ()), (broken, ()), (dataclasses.replace(whole, points=whole.points[::3]), ()))]  # fmt: skip
    assert lines == [2, 2, 0]  # band and line; the same up to the gap; two points far apart
    drawn = curves([broken], places, "t", "b", [(2, "failed")])
    assert "failed" in drawn and drawn.count("<line") > curves([broken], places, "t", "b").count("<line")


def test_shares_of_a_bar_are_as_wide_as_they_are_large():
    drawn = bar([("a", 0.25), ("b", 0.8), ("absent", -0.05)], "t", "b")
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="30"', drawn)]
    assert widths[0] / widths[1] == pytest.approx(0.25 / 0.8, rel=0.01) and widths[2] == 0
    assert "-.05 absent" in drawn


def test_a_card_is_plain_json_and_says_what_the_records_do(run):
    told = card(run)
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    assert told["behaviour"] == synthetic_run.BEHAVIOURS[0] and told["digest"] == run.manifest["digest"]
    row = run.records.set_index("id").loc[told["levels"][0]["id"]]
    assert told["levels"][0]["value"] == row["value"]
    assert {one["state"] for one in told["trust"]} <= {"passed", "failed", "not measured"}
    assert [one["behaviour"] for one in cards(run)] == list(synthetic_run.BEHAVIOURS)
    is_safe(card_page(told))


def test_a_site_names_only_files_that_it_has(run):
    files = dict(site([run], "Beside the paper"))
    assert list(files)[-1] == "index.html"
    index = is_safe(files["index.html"], local=set(files))
    assert {"synthetic.html", "synthetic.card-0.html"} <= set(index.addresses)
    assert "Beside the paper" in index.text
    assert [one["behaviour"] for one in json.loads(files["synthetic.cards.json"])] == list(synthetic_run.BEHAVIOURS)
    with pytest.raises(BadInput, match="a name each"):
        list(site([run, run]))


@pytest.mark.parametrize(
    ("text", "said"), [("0.123456789", "0.1235"), ("12", "12"), ("1e-07", "1e-07"), ("a1b2", "a1b2")]
)
def test_numbers_of_provenance_are_rounded(text, said):
    assert rounded(text) == said


def test_published_numbers_are_drawn_open(run):
    one = Reported("Smith 2024, table 3", 0.5, "blocks.2.hook_resid_post")
    text = report(run, reported=[one])
    assert 'r="6" fill="#fff"' in text and "Smith 2024, table 3" in Page(text).text
    assert 'r="6" fill="#fff"' not in report(run, reported=[dataclasses.replace(one, behaviour="another")])
    assert isinstance(run.records, pd.DataFrame)


def test_a_report_draws_boards_judges_claims_and_has_a_dark_scheme(tmp_path):
    write_rows_by_hand(tmp_path, "told", told=True)
    run = pk.open_run(tmp_path / "told")
    text = report(run)
    is_safe(text)
    page = Page(text)
    assert "mine_yours as it is (×: the likeliest move) and as decoded here: 1 of 4 wrong" in page.text
    assert page.tags.count("circle") >= 10 * 4  # discs of ten rows, on two boards each
    judged = pk.judge(run.records, run.losses, "predicts in distribution", behaviour="answer", hook=SITES[0],
                      level="linear", source="behaviour")  # fmt: skip
    assert f"Predicts in distribution: {judged['verdict'].iloc[-1]}" in page.text
    assert "@media screen and (prefers-color-scheme: dark)" in text


def test_in_the_dark_every_colour_of_a_figure_is_one_for_dark_paper():
    """Whatever a drawing holds is told another colour, and one that can be read there; fills of shares stay."""
    drawn = report(pk.open_run(synthetic_run.shared_run()))
    dark = dict(re.findall(r'svg \[fill="(#\w+)"\] \{ fill: (#\w+)', drawn))
    figures = re.findall(r"<figure><svg.*?</svg>", drawn, re.S)
    texts = {colour for figure in figures for colour in re.findall(r'<text[^>]*?fill="(#\w+)"', figure)}
    lines = {colour for figure in figures for colour in re.findall(r'<path[^>]*?stroke="(#\w+)"', figure)}
    assert texts and lines and texts | lines <= set(dark)
    assert all(contrast(dark[colour], PALETTES["dark"]["paper"]) >= 4.5 for colour in texts | lines)
    assert min(contrast(colour, PALETTES["dark"]["paper"]) for colour in texts) < 4.5  # as it was drawn
