"""The rows behind a run's numbers: kept once, read back by hook, behaviour and reader, and the same however it ran."""

import csv
import random

import numpy as np
import pandas as pd
import pytest

import checkpoints
import probekit as pk
from checkpoints import sharpen
from probekit.errors import BadInput, Interrupted, RunError
from probekit.jobs import job as job_of
from probekit.results.examples import added_bits
from probekit.storage.runwriter import RunWriter

WORDS = sorted({word for sentence in checkpoints.SENTENCES for word in sentence.split()})
READ = '[read]\nhooks = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]\n' \
       'outer_folds = {folds}\ninner_folds = 1\nfalls = false\n' \
       'levels = ["prior", "baseline", "direction", "directions", "linear"]\nks = [1, 2]\ncontrols = []\n' \
       'decomposition = false\nextrapolate = false\nn_permutations = 0\n'  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of width 8, so that few rows are enough."""
    folder = tmp_path_factory.mktemp("small")
    return sharpen(checkpoints.write(folder / "plain", "gpt2", d_model=8, n_layers=3), folder / "tiny", 300.0)


def write_job(folder, model, name="job", n=300, folds=2, position=""):
    """Texts of five words with a label, and the model's own choice between two tokens; a second domain of as many."""
    draw = random.Random(0)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label", "group", "domain", "at"])
        for i in range(2 * n):
            words = [draw.choice(WORDS) for _ in range(5)]
            label = "yes" if words[-1] < "m" or draw.random() < 0.2 else "no"
            domain = ("seen", "other")[i // n]
            out.writerow([" ".join(words), label, f"{domain}-{i % 30}", domain, 0])
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nn_bootstrap = 200\n[model]\nname = "{model}"\ntwin = false\n'
        f'[task]\nfile = "rows.csv"\ntext = "text"\ngroup = "group"\ndomain = "domain"\n{position}'
        '[[task.behaviours]]\nname = "choice"\nkind = "choice"\ntokens = ["he", "nine"]\n'
        '[[task.behaviours]]\nname = "label"\nkind = "label"\ncolumn = "label"\n'
        + READ.format(folds=folds) + '[transfer]\nlevels = ["linear"]\n',
        encoding="utf-8",
    )  # fmt: skip
    return path


def go(path, folder, **more):
    return pk.run_job(path, root=folder / "runs", store=folder / "store", **more)


@pytest.fixture(scope="module")
def places(small, tmp_path_factory):
    """A run at two rules of positions, in two folds."""
    folder = tmp_path_factory.mktemp("places")
    return go(write_job(folder, small, position='position = ["column:at", "last"]\n'), folder)


def behind(run, record):
    """The rows of one record of `read`."""
    where = {name: record[name] for name in ("hook", "behaviour", "position", "level", "source")}
    return run.rows(**where, k=None if pd.isna(record["k"]) else int(record["k"]))


def read_of(run):
    """Records that rows are kept of."""
    records = run.records
    return records[(records["metric"] == "read") & (records["control"] == "") & (records["floor"] == "strong")
                   & (records["fit_domain"] == "seen") & (records["test_domain"] == "seen")
                   & records["bits"].notna()]  # fmt: skip


# Bits of rows --------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_record_make_its_figures(places):
    records = read_of(places)
    assert len(records) >= 2 * 2 * 2 * 6 and set(records["position"]) == {"column:at", "last"}
    for _, record in records.iterrows():
        rows = behind(places, record)
        assert len(rows) == record["n"] and rows["row"].is_unique
        missed = rows["bits"] - rows["ceiling_bits"]
        for name in ("bits", "floor_bits", "ceiling_bits"):
            assert rows[name].mean() == pytest.approx(record[name], abs=1e-4), name
        assert missed.groupby(rows["group"]).mean().max() == pytest.approx(record["worst_group"], abs=1e-4)
        assert missed.quantile(0.99) == pytest.approx(record["p99_bits"], abs=1e-4)
        assert rows["fold"].nunique() == 2 and (rows.groupby("group")["fold"].nunique() == 1).all()
        if not record["na_reason"]:
            value = missed.sum() / (rows["floor_bits"] - rows["ceiling_bits"]).sum()
            assert value == pytest.approx(record["value"], abs=1e-3)
            explained = added_bits(rows).sum() / (rows["floor_bits"] - rows["ceiling_bits"]).sum()
            assert explained == pytest.approx(1 - record["value"], abs=1e-3)  # tokens' parts make the whole


def test_rows_are_those_of_the_file(places):
    rows = places.rows(behaviour="label", level="linear", position="last")
    assert set(rows["domain"]) == {"seen"} and set(rows["hook"]) == {f"blocks.{i}.hook_resid_post" for i in (1, 2)}
    assert set(rows["example"]) == set(range(300)), "every group is tested in one of the folds"
    assert (rows["position"] == 4).all()
    assert (places.rows(behaviour="label", level="linear", position="column:at")["position"] == 0).all()


def test_what_is_asked_for_in_vain_is_one_sentence(places):
    with pytest.raises(BadInput, match="keeps no bits per row of level nonlinear: `run.records` lists what was read"):
        places.rows(level="nonlinear")
    assert places.rows(k=2)["k"].eq(2).all() and set(places.rows(source="")["level"]) == {"prior", "baseline"}


def test_only_the_readers_asked_for_are_read(places, monkeypatch):
    checked, plain = [], type(places)._checked
    monkeypatch.setattr(type(places), "_checked", lambda run, path: checked.append(path.name) or plain(run, path))
    places.rows(hook="blocks.1.hook_resid_post", behaviour="label", position="last", level="linear")
    assert len([name for name in checked if name.startswith("read-")]) == 1 and len(places._row_files) == 6


def test_a_file_of_rows_that_was_changed_is_refused(places, tmp_path):
    import shutil

    folder = tmp_path / places.name
    shutil.copytree(places.path, folder)
    broken = next((folder / "rows").glob("*.parquet"))
    data = bytearray(broken.read_bytes())
    data[len(data) // 4] ^= 255
    broken.write_bytes(bytes(data))
    with pytest.raises(RunError, match="does not match its manifest's digest"):
        pk.open_run(folder).rows()


def test_interrupted_and_with_several_workers_the_same_rows_are_kept(small, tmp_path):
    path = write_job(tmp_path, small, n=120, folds=1)
    whole = go(path, tmp_path)

    def halted(what, done, total, left=None):
        if what.startswith("read") and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        pk.run_job(path, root=tmp_path / "again", store=tmp_path / "store", progress=halted)
    half = pk.open_run(tmp_path / "again" / whole.name, partial=True)
    n_files = len(half._row_files)
    assert 0 < n_files < len(whole._row_files) and "floor_bits" not in half.rows()
    resumed = pk.run_job(path, root=tmp_path / "again", store=tmp_path / "store")
    shared = pk.run_job(path, root=tmp_path / "two", store=tmp_path / "store", n_workers=2)
    keys = ["hook", "behaviour", "level", "source", "k", "row"]
    first = whole.rows().sort_values(keys, ignore_index=True)
    for other in (resumed, shared):
        theirs = other.rows().sort_values(keys, ignore_index=True)
        figures = ["bits", "floor_bits", "confidence", "agreed"]
        assert theirs.drop(columns=figures).equals(first.drop(columns=figures))
        assert np.allclose(theirs[figures], first[figures], atol=1e-4)


def test_a_row_of_a_reader_costs_at_most_16_bytes(tmp_path):
    """Of bits without any pattern, with all that says what they are of."""
    n, n_readers = 5_000, 12
    draw = np.random.default_rng(0)
    writer = RunWriter.open(tmp_path, "size", {}, 0)
    rows = np.flatnonzero(draw.random(4 * n) < 0.25).astype(np.int32)
    where = {"hook": "blocks.31.hook_resid_post", "behaviour": "next_move", "rule": "all", "level": "directions"}
    writer.write_rows(
        "cell",
        (
            {
                **where,
                "source": "behaviour",
                "k": k,
                "row": rows,
                "bits": draw.exponential(size=len(rows)).astype(np.float32),
            }
            for k in range(n_readers)
        ),
    )
    writer.finish({})
    size = (tmp_path / "size" / "rows" / "cell.parquet").stat().st_size
    assert size < 16 * len(rows) * n_readers
    back = pk.open_run(tmp_path / "size").rows(k=7)
    assert back["row"].tolist() == rows.tolist() and set(back["k"]) == {7}


def test_what_explains_nothing_keeps_no_rows(small, tmp_path):
    """A behaviour that is the same at every row has no readers, and costs the others nothing."""
    path = write_job(tmp_path, small)
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8").replace(",no,", ",yes,")
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    run = go(path, tmp_path)
    assert set(run.rows()["behaviour"]) == {"choice"} == set(run.table("tested_rows")["behaviour"])
    assert job_of.Job.load(pk.JobSpec.read_toml(path), tmp_path).run == run.name


def test_what_a_reader_says_of_a_row_is_what_its_bits_cost(places):
    """Of a label that is certain: bits are those of the probability that the reader gives to it."""
    rows = places.rows(behaviour="label", level="linear")
    assert set(rows["said"]) == {"yes", "no"} and rows["confidence"].between(0.5, 1).all()
    assert ((rows["said"] == rows["outcome"]) == (rows["agreed"] == 1)).all() and set(rows["agreed"]) == {0.0, 1.0}
    given = np.where(rows["agreed"] == 1, rows["confidence"], 1 - rows["confidence"])
    assert np.allclose(-np.log2(given), rows["bits"], atol=1e-3)
    # Of the model's own law, what it gives to what is said.
    rows = places.rows(behaviour="choice", level="linear")
    same = rows["said"] == rows["outcome"]
    assert same.any() and not same.all()
    assert np.allclose(rows.loc[same, "agreed"], rows.loc[same, "probability"], atol=1e-5)
    assert np.allclose(rows.loc[~same, "agreed"], 1 - rows.loc[~same, "probability"], atol=1e-5)
    told = pk.table("examples", places, behaviour="label", level="linear", position="last")
    assert {"said", "confidence", "agreed"} <= set(told)


# Pairs and answers ---------------------------------------------------------------------------------------------------


def test_counterexample_pairs_are_of_test_rows_that_read_alike(places):
    found = places.table("counterexamples")
    assert {"linear", "directions"} == set(found["level"]) and found["ratio"].min() >= 1
    assert (found["percentile"] <= 5).all() and (found["group_a"] != found["group_b"]).all()
    cells = found.groupby(["hook", "behaviour", "rule", "level", "k"], dropna=False)
    assert cells.size().max() <= 20
    for _, cell in cells:
        assert cell["rank"].tolist() == list(range(1, len(cell) + 1)) and cell["ratio"].is_monotonic_decreasing
        both = [tuple(sorted(pair)) for pair in zip(cell["group_a"], cell["group_b"], strict=True)]
        assert len(set(both)) == len(both)
    tested = places.table("tested_rows")
    fold = tested.set_index(["behaviour", "rule", "example"])["fold"].to_dict()
    for _, pair in found.iterrows():
        first, second = (fold[pair["behaviour"], pair["rule"], pair[f"example_{side}"]] for side in "ab")
        assert first == second, "readouts of two folds are not of one reader"
        law = np.array(pair["law_a"])
        assert pair["outcome_a"] == pair["outcomes"][law.argmax()] and pair["probability_a"] == pytest.approx(law.max())
        assert pair["outcome_a"] != pair["outcome_b"]


def test_pairs_and_rows_are_told_in_the_words_of_the_file(places):
    file = pd.read_csv(places.path.parents[1] / "rows.csv")["text"].tolist()
    last = places.table("counterexamples").query("rule == 'last'")
    assert len(last) and [file[i] for i in last["example_a"]] == last["text_a"].tolist()
    texts = places.table("texts").set_index(["example", "position"])["text"]
    assert all(texts[i, 4] == file[i] and texts[i, 0] == file[i].split()[0] for i in range(300))
    worst = places.table("worst_examples")
    assert [texts[key] for key in zip(worst["example"], worst["position"], strict=True)] == worst["text"].tolist()


def test_what_all_pairs_say_stands_beside_those_that_are_listed(places):
    told = places.table("alike").set_index(["behaviour", "rule", "hook", "level"])
    assert (told["n_alike"] > 0).all() and told["random_bits"].between(0, 1).all()
    # What a label says at random no reader can tell: a fifth of the rows, and every pair of which one of them is part.
    sealed = told.xs("last", level="rule").xs("choice", level="behaviour").xs("linear", level="level")
    noisy = told.xs("last", level="rule").xs("label", level="behaviour").xs("linear", level="level")
    assert (sealed["alike_bits"] < 0.1 * sealed["random_bits"]).all()
    assert (noisy["alike_bits"] > 0.3 * noisy["random_bits"]).all()


def test_answers_are_counted_in_every_domain(places):
    rates = places.table("plausible_rates")
    assert set(rates["domain"]) == {"seen", "other"} and set(rates["consistent_with"]) == {"group"}
    assert ((rates["low"] <= rates["rate"]) & (rates["rate"] <= rates["high"])).all()
    home = rates[rates["domain"] == "seen"]
    assert home["confident"].between(0.18, 0.25).all()
    rows = places.table("plausible")
    assert (rows["said"] != rows["outcome"]).all() and (rows["confidence"] > 0.5).all()
    assert rows.groupby(["hook", "behaviour", "rule", "domain"]).size().max() <= 20


@pytest.fixture(scope="module")
def paired(small, tmp_path_factory):
    """Statements and their negations, whose label the last word decides but in every fifth pair."""
    folder, draw = tmp_path_factory.mktemp("paired"), random.Random(1)
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["claim", "denial", "claim_true", "denial_true", "group"])
        for i in range(200):
            start = " ".join(draw.choice(WORDS) for _ in range(3))
            first = draw.random() < 0.5
            odd = i % 5 == 0  # these follow the contrary rule
            labels = ("yes", "no") if first != odd else ("no", "yes")
            words = ("true", "false") if first else ("false", "true")
            out.writerow([f"{start} {words[0]}", f"{start} {words[1]}", *labels, i])
    path = folder / "pairs.toml"
    path.write_text(
        f'name = "pairs"\nn_bootstrap = 200\n[model]\nname = "{small}"\ntwin = false\n[task]\nfile = "pairs.csv"\n'
        'pair = ["claim", "denial"]\nmembers = {truth = ["claim_true", "denial_true"]}\ngroup = "group"\n'
        '[[task.behaviours]]\nname = "truth"\nkind = "label"\ncolumn = "truth"\n' + READ.format(folds=2),
        encoding="utf-8",
    )  # fmt: skip
    return go(path, folder)


def test_a_salient_distractor_is_plausible_and_incorrect(paired):
    """The reader follows the last word, consistently in statement and negation; where that misleads it is wrong."""
    rates = paired.table("plausible_rates")
    assert set(rates["consistent_with"]) == {"pair"} and (rates["consistent"] > 0.9).all()
    assert rates["wrong_of_confident"].between(0.05, 0.4).all() and (rates["rate"] > 0).all()
    rows = paired.table("plausible")
    assert len(rows) and (rows["example"] // 2 % 5 == 0).all(), "just those that follow the contrary rule"
    assert rows["text"].str.endswith(("true", "false")).all()


def test_a_number_has_pairs_and_no_right_or_wrong(small, tmp_path):
    path = write_job(tmp_path, small, folds=1)
    rows = pd.read_csv(tmp_path / "rows.csv")
    rows["at"] = rows["text"].str.split().str[-1].str.len() + np.arange(len(rows)) % 3
    rows.to_csv(tmp_path / "rows.csv", index=False)
    text = path.read_text(encoding="utf-8").replace('kind = "label"\ncolumn = "label"', 'kind = "value"\ncolumn = "at"')
    path.write_text(text, encoding="utf-8")
    run = go(path, tmp_path)
    found = run.table("counterexamples").query("behaviour == 'label'")
    assert len(found) and set(found["probability_a"].isna()) == {True}
    assert [float(one) for one in found["outcome_a"]] == [law[0] for law in found["law_a"]]
    assert set(run.table("plausible_rates")["behaviour"]) == {"choice"}
    assert "distance" in pk.table("counterexamples", run, behaviour="label")
