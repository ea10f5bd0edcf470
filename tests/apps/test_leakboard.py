"""The page: six pages and the tabs of one, over good, unfinished, damaged, strange and no runs."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from probekit.cli import reading
from probekit.records import Record
from probekit.storage.runwriter import RunWriter
from tests.rows_by_hand import write_rows_by_hand
from tests.synthetic_run import (
    BEHAVIOURS,
    CAUSAL_HOOKS,
    DOMAINS,
    causal_records,
    records,
    shared_run,
    write_causal_run,
    write_run,
)

APPS = Path(__file__).parents[2] / "apps"
APP = APPS / "leakboard" / "app.py"
PAGES = ("runs", "story", "map", "examples", "compare", "trust")
TABS = ("map", "layers", "position", "transfer", "decomposition", "causal")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def leakboard():
    """The page's own modules, as the app itself finds them."""
    pytest.importorskip("streamlit")
    sys.path.insert(0, str(APPS))
    yield
    sys.path.remove(str(APPS))


@pytest.fixture
def page(monkeypatch):
    """Open a page over a folder of runs, as AppTest does it."""
    from streamlit.testing.v1 import AppTest

    def opened(runs: Path, name: str = "runs", **query: str):
        monkeypatch.setattr(sys, "argv", ["app", "--runs", str(runs)])
        test = AppTest.from_file(str(APP), default_timeout=120)
        test.run()
        for key, value in query.items():
            test.query_params[key] = value
        test.switch_page(f"views/{name}.py").run()
        assert test.title[0].value.lower() == name
        assert not test.exception, test.exception
        return test

    return opened


def box(test, key: str):
    return test.selectbox(key=f"choice:{key}")


def said(test) -> str:
    """Everything in words on a page."""
    kinds = (test.markdown, test.text, test.caption, test.warning, test.error, test.info)
    return "\n".join(one.value for kind in kinds for one in kind).replace("\\", "")


# ------------------------------------------------------------------------------------------------------ what they show


@pytest.mark.parametrize("name", PAGES)
def test_every_page_shows_a_run(page, name):
    test = page(shared_run().parent, name)
    assert "FBU" in test.caption[0].value and not test.error


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_of_the_map_shows_a_run(page, tab):
    test = page(shared_run().parent, "map", tab=tab)
    assert not test.error and not test.warning


def test_the_story_has_its_sentences_its_strip_and_what_would_change_it(page, tmp_path):
    made = chosen_in_the_middle(tmp_path)
    shown = said(page(made.parent, "story"))
    assert "site that selection rows prefer" in shown and "L3 resid_post" in shown
    for field in ("Where", "Why", "Trust", "Since the last run", "the first run"):
        assert field in shown
    assert "floor" in shown and "-badge[" in shown
    # Selection rows prefer the unembedding: the story is of the site that they like next, and says what is used.
    shown = said(page(shared_run().parent, "story"))
    assert "L4 resid_post, the site before the unembedding's that selection rows prefer" in shown
    assert "Mostly used: kept alone (all sites, donors alike in it), 32 directions leave" in shown


def chosen_in_the_middle(root: Path, name: str = "middle") -> Path:
    """The synthetic run, of which selection rows prefer a site that no unembedding reads."""
    made = records(6, domains=("random",))
    at = {"hook": "blocks.3.hook_resid_post", "layer": 3}
    made = [replace(one, **at, value=0.33, low=0.31, high=0.36) if one.metric == "selected" else one for one in made]
    writer = RunWriter.open(root, name, {"name": name}, 1)
    writer.write_cell("a", made, [], seconds=0.0)
    writer.finish({})
    return root / name


def test_pages_open_on_the_finding_and_not_on_the_last_layer(page, tmp_path):
    root = chosen_in_the_middle(tmp_path).parent
    test = page(root, "map")
    assert (box(test, "hook").value, box(test, "cell").value) == ("blocks.3.hook_resid_post", "linear")
    assert box(page(root, "trust"), "claimed").value == "blocks.3.hook_resid_post"
    assert page(root).dataframe[0].value["unexplained"].tolist() == [".33 [.31, .36]"]
    # What the unembedding reads is no finding, and nothing opens on it.
    other = page(shared_run().parent, "map")
    assert box(other, "hook").value != "blocks.5.hook_resid_post"


def test_one_cell_has_its_bits_controls_and_groups(page):
    test = page(shared_run().parent, "map", hook="blocks.5.hook_resid_post", cell="linear")
    shown = {metric.label: metric.value for metric in test.metric}
    assert shown["floor, bits"] == "2.310" and shown["test rows"] == "2,000" and shown["groups"] == "400"
    words = said(test)
    for said_of in ("random twin", "equal to the cell: no group leaks", "should be near 1", "memorise types"):
        assert said_of in words
    box(test, "cell").set_value("nonlinear").run()
    box(test, "hook").set_value("blocks.1.hook_resid_post").run()
    assert not test.exception and {m.label: m.value for m in test.metric}["reader, bits"] != shown["reader, bits"]


def test_a_cell_of_a_hypothesis_shows_no_control_of_another_level(page):
    test = page(shared_run().parent, "map", hook="blocks.3.hook_resid_post", cell="hypothesis: legal moves")
    assert "No control of this level was run" in said(test)
    assert "permuted" not in said(test)


def test_a_replaced_cell_is_in_bits_of_kl_and_of_no_reader(page):
    test = page(shared_run().parent, "map", metric="replace", hook="blocks.3.hook_resid_post")
    names = [metric.label for metric in test.metric]
    assert "KL with it kept, bits" in names and not [name for name in names if "reader" in name]
    levels = [option for option in box(test, "cell").options if option.startswith("hypothesis")]
    assert any("decoded" in level for level in levels) and not any("features" in level for level in levels)


def test_the_causal_view_shows_one_site_in_full(page, tmp_path):
    write_causal_run(tmp_path)
    test = page(tmp_path, "map", tab="causal")
    assert box(test, "edited").value == CAUSAL_HOOKS[1]
    assert "Nothing kept (k = 0) leaves 1.02" in said(test)
    box(test, "edited").set_value(CAUSAL_HOOKS[2]).run()
    assert not test.exception
    (shown,) = [table.value for table in test.dataframe if "directions" in table.value]
    row = shown.set_index("directions").loc["directions, k=1"]
    assert row[["read", "kept", "random kept", "erased", "exchanged"]].tolist() == [
        ".25 [.22, .28]", ".48 [.45, .51]", "1.00 [.97, 1.03]", ".10 [.07, .13]", ".43 [.40, .46]"]  # fmt: skip
    assert {"Steered there", "Kept at one site after another"} <= {head.value for head in test.subheader}
    assert any("effect" in table.value and len(table.value) == 18 for table in test.dataframe)  # 3 directions, 6 doses


def test_the_causal_view_says_when_nothing_was_replaced_or_steered(page, tmp_path):
    writer = RunWriter.open(tmp_path, "read", {"name": "read"}, 1)
    writer.write_cell("a", [one for one in causal_records() if one.metric == "read"], [], seconds=0.0)
    writer.finish({})
    read = page(tmp_path, "map", tab="causal")
    assert not read.subheader and not read.error
    write_causal_run(tmp_path, "unsteered", steered=False)
    heads = [head.value for head in page(tmp_path, "map", tab="causal", run="unsteered").subheader]
    assert "One site" in heads and "Steered there" not in heads


def test_layer_curves_name_the_selected_site_draw_few_lines_and_more_when_asked(page):
    test = page(shared_run().parent, "map", tab="layers")
    assert "5 resid_post" in said(test) and "p_max 0.005" in said(test)
    levels = test.multiselect(key="choice:levels")
    assert len(levels.value) == 5 < len(levels.options)
    levels.set_value(["linear", "neurons"]).run()
    assert test.query_params["levels"] in ("linear,neurons", ["linear,neurons"])


def test_examples_show_the_worst_first_pairs_and_what_is_surely_wrong(page, tmp_path):
    write_rows_by_hand(tmp_path, "rows")
    test = page(tmp_path, "examples")
    words = said(test)
    assert "bits missed" in words and "the input alone misses .90 bits" in words
    bits = [float(part.split(" bits")[0]) for part in words.split("-badge[")[1:] if "bits missed" in part[:30]]
    assert bits == sorted(bits, reverse=True) and len(bits) > 2
    assert "read more alike than" in words
    assert {"Missed most", "Read alike, treated differently", "Sure, consistent and wrong"} <= {
        head.value for head in test.subheader
    }
    test.text_input(key="choice:row-find").set_value("no such group").run()
    assert "No test row is left" in said(test) and not test.exception


def test_an_example_shows_what_both_say_its_stretches_and_its_board(page, tmp_path):
    write_rows_by_hand(tmp_path, "told", told=True)
    test = page(tmp_path, "examples")
    shown = said(test)
    assert "the model: a1 (.90); the reader: a2 (1.00), which the model gives .25" in shown
    # Two tokens of each text are read, and a bracket in a text closes no colour.
    assert ":gray-background[text 19 [a]] :small[3.70]  :orange-background[ends] :small[3.80]" in shown
    assert "mine_yours: as it is, and as decoded at L0 resid_post, 1 of 4 wrong" in shown
    # What the reader adds to the input alone: 1 - 3.8 and 1 - 3.9 bits, so that it misleads at both.
    assert "over its 2 tokens the reader adds -5.70 bits" in shown.replace("\\", "")
    box(test, "row-colour").set_value("added").run()
    assert ":red-background[text 19 [a]] :small[-2.80]  :red-background[ends] :small[-2.90]" in said(test)
    assert "full is mine, a ring is yours" in shown and "surer than it should be" in shown
    plain = said(page(write_old(tmp_path / "old"), "examples"))
    assert "the reader:" not in plain and "surer" not in plain and "one token of each example" in plain


def write_old(root: Path) -> Path:
    """A run that was made before what readers say was kept."""
    write_rows_by_hand(root, "old")
    return root


def test_the_folder_of_many_jobs_opens_and_its_runs_stand_on_one_axis(page, tmp_path):
    folder = tmp_path / "steps-0a1b"
    for step in (0, 500, 1000, 1500, 3000):
        write_run(folder, f"steps-{step}", 3, domains=DOMAINS[:1], behaviours=BEHAVIOURS[:1])
    write_run(folder, "other-task", 3, domains=DOMAINS[:1], behaviours=BEHAVIOURS[1:2])
    test = page(tmp_path, "runs")
    assert test.selectbox(key="choice:folder").options == ["runs of single jobs", "steps-0a1b (6 runs)"]
    test = page(tmp_path, "compare", folder="steps-0a1b", run="steps-3000", against="steps-0")
    assert not test.error and not test.warning
    picked = test.multiselect(key="choice:more")
    assert "other-task" in picked.options  # it has no answer to what is asked of the others
    assert set(picked.value) == {"steps-500", "steps-1000", "steps-1500"}
    assert "One site in every run" in said(test) and "A field per run" in said(test)


def test_a_run_that_is_measured_says_how_far_it_is_and_at_what(page, tmp_path):
    writer = RunWriter.open(tmp_path, "busy", {"name": "busy"}, 3)
    made = records(3, domains=DOMAINS[:1], behaviours=BEHAVIOURS[:1])
    writer.write_cell("a", made[:40], [], seconds=1.0)
    writer.beat(every=0.0)  # as a job does every few seconds
    test = page(tmp_path, "runs")
    assert "busy is being measured: 1 of 3 cells." in said(test)
    writer.write_cell("b", made[40:], [], seconds=1.0)
    writer.beat(every=0.0)
    status = tmp_path / "busy" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"doing": "read x", "left": 150}), encoding="utf-8")
    time.sleep(2.1)  # what a folder says is looked at every other second
    assert "busy is being measured: 2 of 3 cells, now read x, about 2 min left." in said(test.run())
    writer.interrupt()
    time.sleep(2.1)
    assert "being measured" not in said(test.run())


def test_compare_says_what_is_shared_then_which_is_better(page, tmp_path):
    write_run(tmp_path, "first", 3, domains=("random",))
    write_run(tmp_path, "second", 3, domains=("random",))
    test = page(tmp_path, "compare", run="second", against="first")
    assert not test.error and "cells of both" in said(test)
    verdicts = test.dataframe[0].value.set_index("what")["verdict"]
    assert verdicts["model"] == "✓ equal"
    alone = page(chosen_in_the_middle(tmp_path / "alone").parent, "compare")
    assert "no other finished run" in said(alone)


def test_trust_lists_what_was_checked_with_what_fills_it(page):
    test = page(shared_run().parent, "trust")
    assert "passed" in said(test) and "not measured" in said(test)
    assert any("[read]" in code.value or "[task]" in code.value or "probekit" in code.value for code in test.code)


def test_trust_and_the_command_judge_alike(page):
    run = shared_run()
    app = typer.Typer()
    reading.register(app)
    level = {"level": "linear", "margin": "0.2", "claimed": "blocks.5.hook_resid_post"}
    shown = page(run.parent, "trust", **level)
    given = ["judge", run.name, "--runs", str(run.parent), "--margin", "0.2", "--json"]
    command = CliRunner().invoke(app, [*given, "--hook", level["claimed"]])
    told = [row for row in json.loads(command.stdout)["rows"] if not row["measure"].startswith("claim: ")]
    tables = [table.value for table in shown.dataframe if "verdict" in table.value and "measure" in table.value]
    on_page = [(m, v) for table in tables for m, v in zip(table["measure"], table["verdict"], strict=True)]
    assert on_page == [(row["measure"], row["verdict"]) for row in told]
    assert {"failed", "passed"} <= {verdict for _, verdict in on_page}


def test_the_calibration_shows_truths_and_says_how_to_make_them(page, tmp_path):
    write_run(tmp_path, "good", 2, domains=("random",))
    assert any("probekit calibrate" in code.value for code in page(tmp_path, "trust").code)
    writer = RunWriter.open(tmp_path / "calibration", "calibration-x", {"calibration": 1}, 0)
    row = {"case": "P2", "metric": "read", "level": "linear", "keep": "", "arm": "", "control": "", "truth": 1.0,
           "estimate": 0.7, "low": 0.6, "high": 0.8, "coverage": 0.2, "bias": -0.3, "naive_method": "<b>usual</b>",
           "naive_value": 0.5, "naive_error": 0.5, "seeds": 9, "passed": False, "why": "within 0.03 in 0%"}  # fmt: skip
    writer.write_table(
        "calibration", pd.DataFrame([row, row | {"case": "P1", "estimate": 1.0, "passed": True, "why": ""}])
    )
    writer.finish({})
    shown = page(tmp_path, "trust")
    assert not shown.error
    assert any(table.value["case"].tolist() == ["P2"] for table in shown.dataframe if "coverage" in table.value)


# ------------------------------------------------------------------------------------------------------------ the link


def test_a_link_names_its_run_and_what_was_chosen_by_id(page):
    test = page(shared_run().parent, "map")
    told = {key: value if isinstance(value, str) else value[0] for key, value in test.query_params.items()}
    assert told["run"] == "synthetic" and len(told["seal"]) == 10 and set(told) == {"run", "seal"}
    box(test, "hook").set_value("blocks.1.hook_resid_post").run()
    assert test.query_params["hook"] in ("blocks.1.hook_resid_post", ["blocks.1.hook_resid_post"])
    test.switch_page("views/trust.py").run()
    assert "hook" in test.query_params  # what was chosen goes along
    first = page(shared_run().parent, "map", hook="blocks.1.hook_resid_post", behaviour=BEHAVIOURS[1])
    assert box(first, "behaviour").value == BEHAVIOURS[1] and box(first, "hook").value == "blocks.1.hook_resid_post"


def test_nonsense_in_a_link_is_told_and_dropped(page):
    test = page(shared_run().parent, "map", behaviour="<script>")
    assert box(test, "behaviour").value == BEHAVIOURS[0]
    assert "which is not here" in test.warning[0].value
    assert "behaviour" not in test.query_params


def test_a_link_to_a_run_of_another_folder_shows_no_other_run(page):
    test = page(shared_run().parent, "map", run="elsewhere")
    assert "no run" in test.error[0].value and "elsewhere" in test.error[0].value and not test.metric


def test_a_link_to_a_run_that_was_measured_again_says_so(page):
    test = page(shared_run().parent, "map", run="synthetic", seal="0000000000")
    assert "measured again" in test.warning[0].value


# -------------------------------------------------------------------------------------------------- states of the runs


@pytest.mark.parametrize("name", PAGES)
def test_no_runs_says_which_command_to_type(page, tmp_path, name):
    assert "probekit run" in page(tmp_path, name).code[0].value


def test_an_unfinished_run_is_shown_with_its_progress(page, tmp_path):
    write_run(tmp_path, "half", 3, finish=False, domains=("random",))
    test = page(tmp_path, "map")
    assert "not finished" in said(test) and any("probekit run" in code.value for code in test.code)
    for name in ("story", "trust"):
        page(tmp_path, name)


def test_a_damaged_run_says_what_is_damaged(page, tmp_path):
    run = write_run(tmp_path, "bad", 2, domains=("random",))
    (run / "records.parquet").write_bytes((run / "records.parquet").read_bytes()[:-100])
    assert "bytes" in page(tmp_path, "map").error[0].value


@pytest.mark.parametrize("file", ["records.parquet", "losses.parquet", "tables/sites.parquet"])
def test_one_flipped_bit_takes_down_no_page(page, tmp_path, file):
    write_run(tmp_path, "good", 2, domains=("random",))
    run = write_run(tmp_path, "bad", 2, domains=("random",))
    data = bytearray((run / file).read_bytes())
    data[len(data) // 2] ^= 1
    (run / file).write_bytes(data)
    listed = page(tmp_path).dataframe[0].value.set_index("run")
    assert set(listed.index) == {"good", "bad"}
    for name in ("story", "map", "trust", "examples"):
        test = page(tmp_path, name, run="bad")
        assert file == "losses.parquet" or "does not match" in said(test)


def test_a_strange_spec_takes_down_no_page(page, tmp_path):
    for i, spec in enumerate(({"model": "a text"}, {"model": ["list"], "task": 3}, {"model": {"name": {"x": 1}}})):
        write_run(tmp_path, f"strange{i}", 2, domains=("random",), spec=spec)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "spec.json").write_text("[]")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.json").write_text("{")
    table = page(tmp_path).dataframe[0].value.set_index("run")
    assert len(table) == 5 and table.loc["strange0", "model"]
    assert table.loc["torn", "state"] == "damaged" and table.loc["torn", "why"]
    page(tmp_path, "trust", run="strange1")


def test_a_word_in_a_path_decides_nothing(page, tmp_path):
    write_run(tmp_path / "broken damaged", "broken", 2, domains=("random",))
    root = tmp_path / "broken damaged"
    assert page(root).dataframe[0].value["state"].tolist() == ["complete"]
    assert not page(root, "map").error


def test_runs_are_searched_and_filtered(page, tmp_path):
    for name in ("alpha", "beta"):
        write_run(tmp_path, name, 2, domains=("random",))
    write_run(tmp_path, "half", 2, finish=False, domains=("random",))
    test = page(tmp_path)
    test.text_input(key="choice:find").set_value("BETA").run()
    assert test.dataframe[0].value["run"].tolist() == ["beta"]
    test.text_input(key="choice:find").set_value("").run()
    box(test, "state").set_value("stopped").run()
    assert test.dataframe[0].value["run"].tolist() == ["half"]


def test_many_runs_are_opened_once_and_their_frames_not_kept(page, tmp_path, monkeypatch):
    first = write_run(tmp_path, "run0", 1, domains=("random",), behaviours=BEHAVIOURS[:1])
    for i in range(1, 90):
        shutil.copytree(first, tmp_path / f"run{i}")
    from leakboard import data

    assert not data.lines(data.runs(tmp_path), 0)
    assert len(data.lines(data.runs(tmp_path), 1e-9)) == data.AT_LEAST
    assert len(data.lines(data.runs(tmp_path), 600)) == 90
    test = page(tmp_path)
    assert len(test.dataframe[0].value) == 90
    opened = []
    monkeypatch.setattr(data, "open_run", lambda path, **how: opened.append(path))
    test.text_input(key="choice:find").set_value("run7").run()
    assert not opened and len(test.dataframe[0].value) == 11
    assert all("records" not in vars(run) for run in data.runs(tmp_path))


def test_a_run_opens_on_a_behaviour_that_has_a_value(page, tmp_path):
    made = records(2, domains=("random",))
    nothing = {"value": None, "low": None, "high": None, "na_reason": "small_denominator"}
    writer = RunWriter.open(tmp_path, "constant", {"name": "x"}, 1)
    first_has_none = [replace(one, **nothing) if one.behaviour == BEHAVIOURS[0] else one for one in made]
    writer.write_cell("a", first_has_none, [], seconds=0.0)
    writer.finish({})
    opened = box(page(tmp_path, "map"), "behaviour")
    assert opened.options == list(BEHAVIOURS) and opened.value == BEHAVIOURS[1]


def test_a_run_of_which_a_layer_failed_says_so_and_keeps_its_place(page, tmp_path):
    lost = {"metric": "read", "level": "linear", "behaviour": BEHAVIOURS[0], "fit_domain": "random",
            "test_domain": "random", "hook": "blocks.2.hook_resid_post", "layer": 2, "na_reason": "failed"}  # fmt: skip
    writer = RunWriter.open(tmp_path, "holes", {"name": "x"}, 2)
    kept = [one for one in records(6, domains=("random",)) if one.layer not in (2, 3)]
    writer.write_cell("a", kept, [], seconds=0.0)
    writer.write_cell("b", [Record(**lost)], [], error="read at 2: FitError: no end", seconds=0.0)
    writer.finish({})
    assert page(tmp_path).dataframe[0].value["state"].tolist() == ["complete, 1 failed"]
    test = page(tmp_path, "map", hook="blocks.2.hook_resid_post")
    assert "no value, since failed" in said(test)


# ------------------------------------------------------------------------------------------------------------- is safe


def test_text_is_not_markup():
    from leakboard import state

    shown = state.plain("![x](http://example.org/a.png) <b> $x$ :red[y]")
    assert "\\!\\[x\\]\\(http\\:\u200b//" in shown and "b\u200b@c" in state.plain("b@c")
    assert state.plain("www.example.org").startswith("www\u200b")
    assert "\\<b\\>" in shown and "\\$x\\$" in shown
    for source in APP.parent.rglob("*.py"):
        text = source.read_text()
        for word in ("unsafe_allow_html", "unsafe_allow_javascript", 'page_icon=":'):
            assert word not in text


HOSTS = ("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"host": "127.0.0.1:8501"}, False),
        ({"host": "localhost:8501", "origin": "http://localhost:8501"}, False),
        ({"host": "evil.example:8501"}, True),
        ({"host": "127.0.0.1.evil.example"}, True),
        ({"host": "user@127.0.0.1"}, True),
        ({"host": "127.0.0.1:port"}, False),
        ({}, True),
        ({"host": "127.0.0.1:8501", "origin": "http://127.0.0.1:9999"}, True),
        ({"host": "127.0.0.1:8501", "origin": "https://evil.example"}, True),
        ({"host": "127.0.0.1:8501", "origin": "null"}, True),
        ({"host": "127.0.0.1:8501", "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, True),
        ({"host": "127.0.0.1:8501", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "iframe"}, True),
        ({"host": "127.0.0.1:8501", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "document"}, False),
    ],
)  # fmt: skip
def test_who_may_ask(headers, refused):
    from leakboard.guard import refusal

    assert bool(refusal(headers, HOSTS)) is refused
    if not refused:
        assert refusal(headers, ()) == ""


def test_the_page_needs_no_torch():
    code = (
        "import sys; sys.argv = ['app', '--runs', sys.argv[1]]\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"t = AppTest.from_file({str(APP)!r}, default_timeout=120).run()\n"
        "t.switch_page('views/map.py').run()\n"
        "assert not t.exception and t.metric, t.exception\n"
        "assert not {'torch', 'transformer_lens', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(shared_run().parent)], check=True, capture_output=True)
