"""Minimal pairs: each differs in one word, what decides it stands earlier, and no half of a pair tells the answer."""

from collections import Counter, defaultdict

import pytest

from probekit import JobSpec
from probekit.inputs.filetask import check_rows, read_rows
from probekit.jobs.plan import plan_rows
from probekit.testbeds.pairs import PHENOMENA, minimal_pairs, write_pairs


@pytest.fixture(scope="module")
def rows():
    return minimal_pairs(80)


def test_pairs_are_different_and_of_one_seed(rows):
    assert rows == minimal_pairs(80) != minimal_pairs(80, 1)
    assert Counter(row[0] for row in rows) == dict.fromkeys(PHENOMENA, 80)
    assert len({row[:3] for row in rows}) == len(rows)
    assert all(
        right != wrong and right[0] == wrong[0] == " " and " " not in right[1:] for _, _, right, wrong, _ in rows
    )


@pytest.mark.parametrize("name", PHENOMENA)
def test_no_word_is_always_the_right_one(rows, name):
    """A reader that takes the usual word, without the beginning, is right about half of the time."""
    first = Counter(right for phenomenon, _, right, _, _ in rows if phenomenon == name)
    second = Counter(wrong for phenomenon, _, _, wrong, _ in rows if phenomenon == name)
    naive = sum(max(first[word], second[word]) for word in first | second) / (2 * 80)
    assert naive < 0.75


def test_agreement_follows_the_first_noun_and_not_the_nearest(rows):
    plural = {"agreement": 1, "clause": 1}
    for name, beginning, right, _, _ in rows:
        if name in plural:
            assert right == (" are" if beginning.split()[1].endswith("s") else " is")
    nearest = [right == (" are" if beginning.split()[-1].endswith("s") else " is")
               for name, beginning, right, _, _ in rows if name == "agreement"]  # fmt: skip
    assert not any(nearest)  # the naive rule is always wrong here


def test_a_reflexive_is_of_the_subject(rows):
    genders = defaultdict(set)
    for name, beginning, right, _, _ in rows:
        if name == "reflexive":
            genders[beginning.split()[1]].add(right)
    assert all(len(found) == 1 for found in genders.values()) and len(set.union(*genders.values())) == 2


def test_a_job_reads_them_as_they_are_written(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 10)
    behaviour = {"name": "grammar", "kind": "logit_diff", "correct": "right", "wrong": "wrong", "whole": True}
    task = {"file": "pairs.csv", "text": "beginning", "group": "group", "behaviours": [behaviour]}
    job = JobSpec.check({"name": "pairs", "model": {"name": "any"}, "task": task}, "here")
    assert plan_rows(job, tmp_path)
    columns = read_rows(job.task, tmp_path)
    assert len(columns) == 50 and check_rows(job.task, columns)
    assert columns.present("right")[0].startswith(" ")
