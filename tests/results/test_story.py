"""A run's story: sentences, the strip, what would change it, and the list of what was checked."""

import re
from pathlib import Path

import pandas as pd
import pytest

import probekit as pk
import synthetic_run
from probekit.records import Record
from probekit.results.story import conclusion, story
from probekit.results.trust import STATES, counted, trust, trust_frame

SITES = [f"blocks.{i}.hook_resid_post" for i in range(3)]
AUDIT = {"invariance": 1e-6, "invariance_limit": 1e-3, "backend_parity": 1e-6, "backend_parity_limit": 1e-4,
         "n_hooks_fired_once": 3, "n_not_finite": 0, "n_sequences": 90, "n_at_context_limit": 0, "n_without_bos": 0,
         "n_with_two_bos": 0, "task": {"n_truncated": 0}}  # fmt: skip


def record(value, hook=SITES[1], level="linear", width=0.05, **more):
    at = {"behaviour": "answer", "fit_domain": "home", "test_domain": "home", "metric": "read", "source": "behaviour",
          "n": 400, "groups": 100, "floor_bits": 1.0, "ceiling_bits": 0.1, "bits": 0.5}  # fmt: skip
    return Record(hook=hook, level=level, value=value, low=value - width, high=value + width, **(at | more))


def frame(*records, **manifest):
    """Records beside a site that was chosen on selection rows; the last site is the unembedding's."""
    usual = [record(0.4), record(0.6, SITES[0]), record(0.0, SITES[2]), record(0.4, metric="selected")]
    found = pd.DataFrame([one.row() for one in (*usual, *records)]).astype({"k": "Int64"})
    told = {"model": {"n_layers": 3}, "audit": AUDIT} | manifest.pop("provenance", {})
    found.attrs["manifest"] = {"spec": {}, "cells": {"ok": 3, "total": 3, "failed": []}, "provenance": told} | manifest
    return found


def by_name(checks):
    return {check.name: check for check in checks}


def test_the_sentences_are_the_headlines_and_the_unembedding_is_no_finding():
    told = story(frame())
    assert 1 <= len(told.sentences) <= 3 and "L1 resid_post" in told.sentences[0]
    assert told.found is not None and told.found["hook"] == SITES[1]
    at_last = frame().query("metric == 'read'")
    at_last.attrs = frame().attrs
    at_last = pd.concat([at_last, pd.DataFrame([record(0.0, SITES[2], metric="selected").row()])])
    at_last.attrs = frame().attrs
    nothing = story(at_last)
    assert nothing.found is None and nothing.strip[0].fill


def test_the_strip_says_where_why_trust_and_since():
    shares = [record(value, level=level, metric="decomposition", arm="linear_first", source="")
              for level, value in (("direction", 0.2), ("linear", 0.4), ("absent", 0.4))]  # fmt: skip
    strip = {panel.name: panel for panel in story(frame(*shares)).strip}
    assert list(strip) == ["where", "why", "trust", "since"]
    assert strip["where"].title == "L1 resid_post" and ".40 [.35, .45]" in strip["where"].said
    assert strip["why"].title == ".40 is not at this site" and ".20 one direction" in strip["why"].said
    assert re.fullmatch(r"\d+ passed, \d+ failed, \d+ not measured", strip["trust"].title)
    assert strip["since"].title == "the first run"
    assert story(frame()).strip[1].fill == "[read] decomposition = true"


def test_since_the_last_run_is_a_comparison():
    run = pk.open_run(synthetic_run.shared_run())
    told = story(run, previous=run).strip[3]
    assert "synthetic (B) equals synthetic (A): a linear reader at L4 resid_post" in told.said
    assert told.fill == "probekit compare synthetic synthetic"


def test_the_run_before_is_of_the_same_model_and_task(tmp_path, monkeypatch):
    from probekit.storage import runs
    from probekit.storage.runwriter import RunWriter

    def made(name, model, task="games"):
        writer = RunWriter.open(tmp_path, name, {"name": name}, 1)
        writer.write_cell("cell", [record(0.4)], [], seconds=1.0)
        writer.finish({"model": {"name": model}, "task": {"name": task}})

    for name, model in (("first", "small"), ("other", "large"), ("second", "small")):
        made(name, model)
    order = {"first": "1", "other": "2", "second": "3"}
    found = {run.name: run for run in runs.list_runs(tmp_path)}
    for name, run in found.items():
        run.status["updated"] = order[name]
    monkeypatch.setattr(runs, "list_runs", lambda root: sorted(found.values(), key=lambda run: order[run.name])[::-1])
    before = runs.run_before(found["second"])
    assert before is not None and before.name == "first"
    assert runs.run_before(found["first"]) is None and runs.run_before(found["other"]) is None


@pytest.mark.parametrize(("weak", "reverses", "other"), [(0.3, True, "more than half"), (0.4, False, "something")])
def test_a_weak_floor_that_changes_the_conclusion_is_said_to(weak, reverses, other):
    now = frame()
    wide = now.assign(low=now["value"] - 0.2, high=now["value"] + 0.2)
    wide.attrs = now.attrs
    rows = pd.concat([wide, pd.DataFrame([record(weak, floor="weak", width=0.1).row()]).astype({"k": "Int64"})])
    rows.attrs = now.attrs
    change = next(one for one in story(rows).changes if one.choice == "floor")
    assert change.reverses is reverses and change.other.startswith(other)


def test_a_conclusion_follows_from_its_interval():
    said = {(0.3, 0.45): "more than half", (0.35, 0.55): "something", (0.9, 1.0): "nothing", (1.1, 1.3): "it misleads"}
    assert all(conclusion(*interval).startswith(words) for interval, words in said.items())


def test_choices_that_were_not_tried_say_what_tries_them():
    told = {one.choice: one for one in story(frame()).changes}
    assert list(told) == ["floor", "split", "seen or unseen", "ontology"]
    assert all(one.reverses is None and one.fill for one in told.values())


def test_what_is_lost_elsewhere_and_hidden_by_its_name_reverses():
    moved = record(0.9, metric="transfer", arm="refit", test_domain="away")
    features = [record(value, behaviour=f"feature:{name}", metric="accuracy", level=level)
                for name, level, value in (("a", "linear", 0.6), ("a", "nonlinear", 0.95), ("b", "linear", 0.9),
                                           ("b", "nonlinear", 0.91))]  # fmt: skip
    told = {one.choice: one for one in story(frame(moved, *features)).changes}
    assert told["seen or unseen"].reverses and "away" in told["seen or unseen"].said
    assert told["ontology"].reverses and "a would look less present" in told["ontology"].other
    kept = {
        one.choice: one for one in story(frame(record(0.1, metric="transfer", arm="refit", test_domain="away"))).changes
    }
    assert kept["seen or unseen"].reverses is False


def test_every_check_that_was_not_made_says_what_makes_it():
    checks = trust(frame())
    missing = {check.name for check in checks if check.state == "not measured" and not check.fill}
    assert missing <= {"duplicates"}
    assert {check.about for check in checks} >= {"run", "activations", "controls", "selection", "floor", "instrument"}
    assert sum(map(int, re.findall(r"\d+", counted(checks)))) == len(checks)
    table = trust_frame(checks)
    order = [STATES.index(state) for state in table["state"]]
    assert order == sorted(order) and len(table) == len(checks)


def test_a_control_is_held_against_the_same_reader():
    good = by_name(trust(frame(record(0.98, control="random_twin"))))["random twin"]
    assert good.state == "passed" and "untrained network leaves .98" in good.said
    bad = by_name(trust(frame(record(0.42, control="random_twin"))))["random twin"]
    assert bad.state == "failed" and "not told apart" in bad.said
    other = by_name(trust(frame(record(0.98, SITES[0], control="random_twin"))))["random twin"]
    assert other.state == "not measured" and "random_twin" in other.fill


@pytest.mark.parametrize(
    ("name", "change", "state"),
    [
        ("batch against single", {"invariance": 0.1}, "failed"),
        ("finite", {"n_not_finite": 2}, "failed"),
        ("hooks", {"n_hooks_fired_once": 0}, "failed"),
        ("two forwards", {"backend_parity": None}, "not measured"),
        ("whole", {"n_at_context_limit": 3}, "failed"),
        ("first token", {"n_with_two_bos": 1}, "failed"),
        ("duplicates", {"task": {"copies": "3 groups have the same texts"}}, "failed"),
    ],
)
def test_an_audit_that_is_off_fails(name, change, state):
    assert by_name(trust(frame(provenance={"audit": AUDIT | change})))[name].state == state
    assert name == "two forwards" or by_name(trust(frame()))[name].state == "passed"


def test_failed_cells_and_unfinished_runs_fail():
    broken = frame(cells={"ok": 2, "total": 3, "failed": [{"cell": "c", "error": "no memory"}]})
    assert by_name(trust(broken))["failed cells"].state == "failed"
    assert "no memory" in by_name(trust(broken))["failed cells"].said
    assert by_name(trust(frame(), problem="it is not finished"))["finished"].state == "failed"
    bare = frame()
    bare.attrs = {}
    assert by_name(trust(bare))["extraction"].state == "not measured"


def test_rows_selection_and_na():
    few = frame(record(0.3, level="nonlinear"))
    few["groups"] = 12
    assert by_name(trust(few))["groups"].state == "failed"
    falling = record(0.4, level="nonlinear", falls=0.2, falls_low=0.1, falls_high=0.3, n_fit=900)
    assert by_name(trust(frame(falling)))["enough to fit"].state == "failed"
    looked = frame()
    looked["p_max"] = 0.4
    assert by_name(trust(looked))["all sites at once"].state == "failed"
    gone = frame(Record(behaviour="answer", fit_domain="home", test_domain="home", metric="read", level="nonlinear",
                        hook=SITES[0], na_reason="failed"))  # fmt: skip
    assert by_name(trust(gone))["values"].state == "failed"


def test_the_calibration_that_is_shipped_is_the_page_s():
    page = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text()
    check = by_name(trust(frame()))["calibration"]
    accepted, truths = re.search(r"(\d+) of (\d+) known truths", check.said).groups()
    assert f"**{accepted} of {truths} truths accepted.**" in page
    assert re.search(r"commit (\w+)", check.said).group(1) in page


def test_a_whole_run_has_a_story():
    run = pk.open_run(synthetic_run.shared_run())
    for behaviour in synthetic_run.BEHAVIOURS:
        told = story(run, behaviour=behaviour)
        assert told.sentences and len(told.strip) == 4 and told.checks
