"""The study of sizes: growth that was planted is found, and the job is what the page says."""

import numpy as np
import pytest

from probekit.proofs.studies.sizes import SizesFindings, SizesSize, grows, job_of, measure_sizes, tables
from probekit.records import SAMPLED

SIZES = ("s", "l")


def planted(growth, noise, n=40, seed=0):
    """Contrasts that differ much among themselves; of each, the simple function's share grows by `growth` a size."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        hard = rng.uniform(0, 0.7)
        for j, size in enumerate(SIZES):
            for what, value in (("simple", hard + growth * j), ("rule", hard / 2)):
                value += noise * rng.normal()
                told = {"value": value, "low": value - 0.1, "high": value + 0.1, "na_reason": ""}
                rows.append({"size": size, "behaviour": f"{SAMPLED}a/{i}", "metric": "read", "what": what} | told)
    return SizesFindings({size: {"width": 8.0, "right_all": 0.9} for size in SIZES}, tuple(rows))


def verdicts(found):
    return {(row["metric"], row["what"]): row["verdict"] for row in grows(found)}


def test_growth_is_found_within_contrasts_where_their_spread_hides_it():
    """The spread between contrasts is ten times what grows: intervals of the two sizes apart overlap."""
    found = planted(0.02, 0.02)
    told = verdicts(found)
    assert told["read", "simple"] == "grows" and told["read", "rule"] == "open"
    assert told["read", "rule less simple"] == "falls"
    leaks = tables(found)["leaks"].set_index(["what", "network"])["mean"]
    low, high = (leaks["simple", size].split("[")[1].rstrip("]").split(", ") for size in ("l", "s"))
    assert float(low[0]) < float(high[1])  # what a comparison of the two means alone would call open


def test_what_does_not_grow_is_hardly_ever_said_to():
    wrong = [verdicts(planted(0.0, 0.1, seed=seed))["read", "simple"] != "open" for seed in range(60)]
    assert np.mean(wrong) <= 0.15


def test_a_contrast_that_one_network_was_not_asked_for_or_that_is_na_is_left_out():
    found = planted(0.1, 0.0)
    rows = [row for row in found.rows if not (row["size"] == "l" and row["behaviour"] == f"{SAMPLED}a/0")]
    rows = [row | {"value": None} if row["behaviour"] == f"{SAMPLED}a/1" else row for row in rows]
    assert {row["n"] for row in grows(SizesFindings(found.networks, tuple(rows)))} == {38}


def test_findings_come_back_from_their_file(tmp_path):
    found = planted(0.1, 0.1, n=3)
    found.write(tmp_path / "sizes.json")
    again = SizesFindings.read(tmp_path / "sizes.json")
    assert again == found and set(tables(again)) == {"networks", "picked", "leaks", "grows", "worst"}


def test_a_job_samples_and_keeps_on_one_split():
    job = job_of("s", SizesSize().of(0.5), 3)
    assert (job.task.sampled.n, job.task.sampled.seed, job.task.testbed) == (20, 3, "tiny-world-s")
    assert job.read.folds_of(500) == (1, 1) and not job.wants_twin


@pytest.mark.slow
def test_networks_are_measured_and_a_second_call_finds_all_done(tmp_path):
    found = measure_sizes(tmp_path, SizesSize(3, 60, 16))
    assert "s" in found.networks
    assert {(row["metric"], row["what"]) for row in found.rows} >= {("read", "rule"), ("replace", "direction")}
    assert measure_sizes(tmp_path, SizesSize(3, 60, 16)) == found
