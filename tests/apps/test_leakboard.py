"""The page and the reading commands: every view over good, unfinished, broken and no runs; once in a real browser."""

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from probekit.cli import dashboard, reading
from probekit.errors import BadInput, ProbekitError
from probekit.records import Record
from probekit.results import claims
from probekit.results.tables import TOGETHER
from probekit.storage.runs import read_run
from probekit.storage.runwriter import RunWriter
from tests.synthetic_run import (
    BEHAVIOURS,
    CAUSAL_HOOKS,
    causal_records,
    records,
    shared_run,
    write_causal_run,
    write_run,
)

APP = Path(__file__).parents[2] / "apps" / "leakboard" / "app.py"
PAGES = (
    "frontier",
    "causal",
    "leak_map",
    "layer_curves",
    "decomposition",
    "transfer",
    "claims",
    "ontology",
    "provenance",
)

app = typer.Typer()
reading.register(app)


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


# ------------------------------------------------------------------------------------------------------------ commands


def test_show_json_is_one_object_of_record_rows():
    run = shared_run()
    body = json.loads(command("show", str(run), "--json"))
    assert (body["schema_version"], body["command"], body["ok"]) == (1, "show", True)
    made = body["rows"][0]
    fields = {name: value for name, value in made.items() if name not in ("id", "seed", *TOGETHER)}
    # The run is told on reading: a record's name does not depend on the folder that it lies in.
    stored = Record(**(fields | {"run": ""})).row() | {"run": run.name}
    assert stored == {name: value for name, value in made.items() if name not in TOGETHER}
    assert any(row["band_low"] is not None and row["p_max"] == 0.005 for row in body["rows"])
    assert len(body["rows"]) == len(read_run(run))


def test_ls_lists_all_states(tmp_path):
    assert "probekit run SPEC" in command("ls", str(tmp_path))
    write_run(tmp_path, "good", 2, domains=("random",))
    write_run(tmp_path, "half", 2, finish=False, domains=("random",))
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / "losses.parquet").unlink()
    states = {row["run"]: row["state"] for row in json.loads(command("ls", str(tmp_path), "--json"))["rows"]}
    assert states == {"good": "complete", "half": "stopped", "bad": "damaged"}
    assert "good" in command("ls", str(tmp_path))
    body = json.loads(command("show", "half", "--runs", str(tmp_path), "--json", code=2))
    assert not body["ok"] and "not finished" in body["error"] and body["rows"] == []
    partial = json.loads(command("show", "half", "--runs", str(tmp_path), "--partial", "--json"))
    assert partial["rows"] and partial["problem"]


def test_ls_says_why_a_run_failed(tmp_path):
    write_run(tmp_path, "good", 2, domains=("random",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{")
    refused = RunWriter.open(tmp_path, "refused", {"name": "refused"}, 4)
    refused.fail("every behaviour has one outcome in all of the rows that were given; so there is nothing to explain.")
    holes = RunWriter.open(tmp_path, "holes", {"name": "holes"}, 4)
    for cell in "ab":
        holes.write_cell(cell, [], [], error=f"read {cell}: FitError: no end", seconds=0.0)
    told = {row["run"]: row["reason"] for row in json.loads(command("ls", str(tmp_path), "--json"))["rows"]}
    assert told["good"] == "" and "bad is broken" in told["bad"].replace("/manifest.json", "")
    assert told["refused"].startswith("every behaviour has one") and told["refused"].endswith("to explain.")
    assert told["holes"] == "read a: FitError: no end (1 more)"
    shown = " ".join(command("ls", str(tmp_path)).split())
    assert "every" in shown and "to explain" not in shown


def test_show_and_figure(tmp_path):
    run = str(shared_run())
    assert "0 explains all" in command("show", run) and ".0" in command("show", run, "--table", "floor_switch")
    assert command("show", run, "--csv").startswith("behaviour,")
    out = tmp_path / "f.html"
    assert (
        command("figure", "frontier", run, "--out", str(out), "--dark").strip() == str(out)
        and out.stat().st_size > 10**6
    )
    body = json.loads(command("figure", "fronteer", run, "--json", code=2))
    assert "Did you mean 'frontier'" in body["error"]
    result = CliRunner().invoke(app, ["figure", "frontier", run, "--out", str(tmp_path / "none" / "f.html")])
    assert isinstance(result.exception, ProbekitError)


def test_the_dashboard_listens_on_this_machine_only():
    row = json.loads(command("dashboard", "runs", "--port", "8765", "--json"))["rows"][0]
    assert {"--server.address=127.0.0.1", "--browser.gatherUsageStats=false", "--server.fileWatcherType=none",
            "--server.allowedHosts=localhost", "--client.toolbarMode=viewer"} <= set(row["command"])  # fmt: skip
    with pytest.raises(BadInput, match="--unsafe-expose"):
        dashboard.dashboard_command(Path("runs"), 8501, False, "0.0.0.0")
    exposed, _ = dashboard.dashboard_command(Path("runs"), 8501, False, "0.0.0.0", unsafe_expose=True)
    assert "--server.address=0.0.0.0" in exposed


def test_help_loads_nothing_heavy():
    code = ("import sys, typer; from probekit.cli.reading import register; register(typer.Typer());"
            "print(sorted({'pandas', 'plotly', 'streamlit', 'torch', 'numpy'} & set(sys.modules)))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


# ---------------------------------------------------------------------------------------------------------------- pages


@pytest.fixture
def page(monkeypatch):
    """Open the page over a folder of runs, as AppTest does it."""
    pytest.importorskip("streamlit")
    from streamlit.testing.v1 import AppTest

    def opened(runs: Path, name: str | None = None, **query: str):
        monkeypatch.setattr(sys, "argv", ["app", "--runs", str(runs)])
        test = AppTest.from_file(str(APP), default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        test.run()
        if name is not None:
            test.switch_page(f"views/{name}.py").run()
            assert test.title[0].value.lower().startswith(name.split("_")[0])
        assert not test.exception, test.exception
        return test

    return opened


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize("name", [None, *PAGES])
def test_every_page_shows_a_run(page, name):
    test = page(shared_run().parent, name)
    assert test.title and "FBU" in test.caption[0].value
    assert not test.error


def test_the_calibration_page_shows_truths_and_says_how_to_make_them(page, tmp_path):
    empty = page(tmp_path, "calibration")
    assert "probekit calibrate" in empty.code[0].value
    from probekit.storage.runwriter import RunWriter

    writer = RunWriter.open(tmp_path / "calibration", "calibration-x", {"calibration": 1}, 0)
    row = {"case": "P2", "metric": "read", "level": "linear", "keep": "", "arm": "", "control": "", "truth": 1.0,
           "estimate": 0.7, "low": 0.6, "high": 0.8, "coverage": 0.2, "bias": -0.3, "naive_method": "<b>usual</b>",
           "naive_value": 0.5, "naive_error": 0.5, "seeds": 9, "passed": False, "why": "within 0.03 in 0%"}  # fmt: skip
    writer.write_table(
        "calibration", pd.DataFrame([row, row | {"case": "P1", "estimate": 1.0, "passed": True, "why": ""}])
    )
    writer.finish({})
    shown = page(tmp_path, "calibration")
    assert not shown.error
    assert shown.dataframe[0].value["case"].tolist() == ["P2"]


def test_the_claims_page_and_the_command_say_the_same(page):
    run = shared_run()
    shown = page(run.parent, "claims", level="linear", margin="0.2")
    command = CliRunner().invoke(app, ["judge", run.name, "--runs", str(run.parent), "--margin", "0.2", "--json"])
    told = [row for row in json.loads(command.stdout)["rows"] if not row["measure"].startswith("claim: ")]
    on_page = [
        (m, v) for table in shown.dataframe for m, v in zip(table.value["measure"], table.value["verdict"], strict=True)
    ]
    assert on_page == [(row["measure"], row["verdict"]) for row in told]
    assert {"failed", "passed"} <= {verdict for _, verdict in on_page}


def test_judge_says_in_a_line_each_which_claims_do_not_fit(monkeypatch):
    used = claims.Claim("is used", (claims.Need(name="kept", metric="replace", arm="random"),))
    monkeypatch.setitem(claims.CLAIMS, "is used", used)
    given = ["judge", str(shared_run()), "--level", "direction"]
    shown = " ".join(command(*given).split())
    assert "is used: " in shown
    told = shown.split("' is left out")
    assert [words.split("'")[-1] for words in told[:-1]] == ["predicts in distribution", "predicts the unseen"]
    assert all("say which source the claim is about." in words for words in told[1:])
    body = json.loads(command(*given, "--json"))
    assert body["ok"] and list(body["left_out"]) == ["predicts in distribution", "predicts the unseen"]
    assert {row["claim"] for row in body["rows"]} == {"is used", "the model uses it"}
    one = json.loads(command(*given, "--claim", "predicts the unseen", "--json", code=2))
    assert (one["ok"], one["error"]) == (False, body["left_out"]["predicts the unseen"])
    assert json.loads(command(*given, "--source", "logistic", "--json"))["rows"]


def test_a_claim_at_a_named_place_asks_nothing_of_the_selected_one(tmp_path, monkeypatch):
    used = claims.Claim("is used", (claims.Need(name="kept", metric="replace", arm="random"),))
    monkeypatch.setitem(claims.CLAIMS, "is used", used)
    at = {"behaviour": "b", "fit_domain": "all", "test_domain": "all", "n": 400, "groups": 100}
    figures = {"value": 0.02, "low": 0.01, "high": 0.03, "bits": 0.02, "floor_bits": 1.0, "ceiling_bits": 0.0}
    at |= figures | {"level": "directions", "source": "pca", "k": 4}
    writer = RunWriter.open(tmp_path, "chain", {"name": "chain"}, 1)
    writer.write_cell("c", [Record(metric="replace", arm="chain:random", **at)], [], seconds=0.0)
    writer.finish({})
    given = ["chain", "--runs", str(tmp_path), "--level", "directions", "--json"]
    told = json.loads(command("judge", *given, "--hook", "", "--claim", "is used"))
    assert (told["hook"], told["rows"][0]["verdict"]) == ("", "passed")
    assert "no level" in json.loads(command("judge", *given, code=2))["error"]


@pytest.mark.parametrize("name", [None, "frontier", "provenance"])
def test_no_runs_says_which_command_to_type(page, tmp_path, name):
    test = page(tmp_path, name)
    assert "probekit run" in test.code[0].value


def test_an_unfinished_run_is_shown_with_its_progress(page, tmp_path):
    write_run(tmp_path, "half", 3, finish=False, domains=("random",))
    test = page(tmp_path, "leak_map")
    assert any("not finished" in text.value for text in test.markdown)
    assert any("probekit run" in code.value for code in test.code)
    page(tmp_path, "provenance")


def test_a_broken_run_says_what_is_broken(page, tmp_path):
    run = write_run(tmp_path, "bad", 2, domains=("random",))
    (run / "records.parquet").write_bytes((run / "records.parquet").read_bytes()[:-100])
    test = page(tmp_path, "frontier")
    assert "bytes" in test.error[0].value and "broken" in test.error[0].value


def test_damage_of_equal_size_is_found_when_read(page, tmp_path):
    run = write_run(tmp_path, "bad", 2, domains=("random",))
    data = bytearray((run / "records.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (run / "records.parquet").write_bytes(data)
    assert "does not match" in page(tmp_path).error[0].value.replace("\\", "")


def test_one_cell_has_its_bits_controls_and_groups(page):
    test = page(shared_run().parent, "leak_map")
    shown = {metric.label: metric.value for metric in test.metric}
    assert shown["floor, bits"] == "2.310" and shown["n"] == "2,000" and shown["groups"] == "400"
    test.selectbox(key="cell").set_value("nonlinear").run()
    test.selectbox(key="hook").set_value("blocks.1.hook_resid_post").run()
    assert not test.exception and {m.label: m.value for m in test.metric}["reader, bits"] != shown["reader, bits"]


def test_the_url_selects_and_nonsense_in_it_is_dropped(page):
    runs = shared_run().parent
    assert page(runs, behaviour=BEHAVIOURS[1]).selectbox(key="behaviour").value == BEHAVIOURS[1]
    assert page(runs, behaviour="<script>").selectbox(key="behaviour").value == BEHAVIOURS[0]


def test_a_run_opens_on_a_behaviour_that_has_a_value(page, tmp_path):
    made = records(2, domains=("random",))
    nothing = {"value": None, "low": None, "high": None, "na_reason": "small_denominator"}
    writer = RunWriter.open(tmp_path, "constant", {"name": "x"}, 1)
    first_has_none = [replace(one, **nothing) if one.behaviour == BEHAVIOURS[0] else one for one in made]
    writer.write_cell("a", first_has_none, [], seconds=0.0)
    writer.finish({})
    opened = page(tmp_path, "leak_map").selectbox(key="behaviour")
    assert opened.options == list(BEHAVIOURS) and opened.value == BEHAVIOURS[1]
    assert f"{BEHAVIOURS[1]} of " in command("show", "constant", "--runs", str(tmp_path))


def test_text_is_not_markup():
    sys.path.insert(0, str(APP.parents[1]))
    try:
        from leakboard import state
    finally:
        sys.path.pop(0)
    shown = state.plain("![x](http://example.org/a.png) <b> $x$ :red[y]")
    assert "\\!\\[x\\]\\(http\\:" in shown and "\\<b\\>" in shown and "\\$x\\$" in shown
    for source in APP.parent.rglob("*.py"):
        assert "unsafe_allow_html" not in source.read_text()


def test_the_page_needs_no_torch():
    code = (
        "import sys; sys.argv = ['app', '--runs', sys.argv[1]]\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"t = AppTest.from_file({str(APP)!r}, default_timeout=60).run()\n"
        "t.switch_page('views/leak_map.py').run()\n"
        "assert not t.exception and t.metric, t.exception\n"
        "assert not {'torch', 'transformer_lens', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(shared_run().parent)], check=True, capture_output=True)


def test_layer_curves_name_the_selected_site_and_its_p_max(page):
    told = [caption.value for caption in page(shared_run().parent, "layer_curves").caption]
    (line,) = [text for text in told if "p\\_max" in text]
    assert "5 resid\\_post" in line and "0\\.005" in line


def test_the_causal_view_shows_one_site_in_full(page, tmp_path):
    write_causal_run(tmp_path)
    test = page(tmp_path, "causal")
    assert test.selectbox(key="hook").value == CAUSAL_HOOKS[1]
    assert any("Nothing kept (k = 0) leaves 1.02" in text.value for text in test.text)
    test.selectbox(key="hook").set_value(CAUSAL_HOOKS[2]).run()
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
    read = page(tmp_path, "causal")
    assert not read.subheader and not read.error
    write_causal_run(tmp_path, "unsteered", steered=False)
    heads = [head.value for head in page(tmp_path, "causal", run="unsteered").subheader]
    assert "One site" in heads and "Steered there" not in heads


def test_show_prints_what_was_steered_at_one_site(tmp_path):
    write_causal_run(tmp_path)
    at = ["causal", "--runs", str(tmp_path), "--metric", "steer"]
    assert command("show", *at).startswith("answer at L7 resid_post")
    assert command("show", *at, "--hook", CAUSAL_HOOKS[2]).startswith("answer at L11 resid_post")
    assert len(command("show", *at, "--csv").splitlines()) == 1 + 3 * 3 * 6
    said = command("show", str(shared_run()), "--metric", "steer", "--behaviour", BEHAVIOURS[0], "--hook", "")
    assert "resid_post" in said


# -------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update",
                 f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1400"):  # fmt: skip
        options.add_argument(flag)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def test_a_click_on_the_map_selects_the_cell_and_moves_the_url(browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def chosen() -> list[str | None]:
        inputs = browser.find_elements(By.CSS_SELECTOR, "[data-testid=stSidebar] input")
        return [box.get_attribute("value") for box in inputs]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line, environment = dashboard.dashboard_command(shared_run().parent, port, False)
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            browser.get(f"http://127.0.0.1:{port}/leak_map?behaviour={BEHAVIOURS[1]}")
            wait = WebDriverWait(browser, 40)
            wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .heatmaplayer image"))
            assert BEHAVIOURS[1] in chosen()
            # The middle row of seven, the sixth column: away from every edge.
            area = browser.find_element(By.CSS_SELECTOR, ".js-plotly-plot .nsewdrag")
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
            time.sleep(1)
            columns = len(browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .xtick"))
            box = area.rect
            right = int(box["width"] * (5.5 / columns - 0.5))
            ActionChains(browser).move_to_element_with_offset(area, right, 0).pause(0.5).click().perform()
            wait.until(lambda b: "hook=" in b.current_url and "cell=" in b.current_url)
            assert "2" in browser.current_url.split("hook=")[1]
            browser.find_element(By.CSS_SELECTOR, "[data-testid=stSidebarNavLink][href$='/frontier']").click()
            wait.until(lambda b: "/frontier" in b.current_url)
            wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".js-plotly-plot .scatterlayer .trace"))
            assert BEHAVIOURS[1] in chosen()
            assert not browser.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")
        finally:
            server.terminate()
            server.wait(timeout=20)
