"""Two runs: what is comparable, differences over the same groups, rows that changed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import probekit as pk
import synthetic_run
from probekit.errors import BadInput, RunError
from probekit.metrics.bootstrap import Clusters, ratio_intervals
from probekit.records import Record
from probekit.results.compare import across, changed_rows, compare
from probekit.results.text import rendered

HOOK = "blocks.1.hook_resid_post"
GROUPS = [f"g{i}" for i in range(60)]
MANIFEST = {
    "spec": {"task": {"testbed": "games"}, "read": {"inner_folds": 1, "levels": ["linear"]}},
    "provenance": {
        "model": {"name": "small", "revision": "step-1", "fingerprint": "aa"},
        "task": {"name": "games", "fingerprint": "0123456789", "n_rows": 240},
        "floors": {"answer home strong": {"family": "linear", "blocks": ["bag"], "bits": 1.0, "ceiling_bits": 0.1}},
        "seeds": {"probe": 0, "data": 0, "model": 0},
        "packages": {"abstraction-probekit": "0.1.0"},
        "cell_version": 8,
    },
}  # fmt: skip


@dataclasses.dataclass
class Folder:
    """A run made by hand: one record per hook, each with group sums; four rows to a group."""

    name: str
    sums: dict[str, tuple[np.ndarray, np.ndarray]]  # by hook: numerator, denominator
    manifest: dict | None = dataclasses.field(default_factory=lambda: MANIFEST)
    texts: dict[str, str] | None = None  # by group: what its rows begin with
    metric: str = "read"

    def __post_init__(self):
        self.ids, made = {}, []
        for hook, (numerator, denominator) in self.sums.items():
            weights = Clusters.of(np.arange(len(numerator)), 500, 0).weights
            value = float(numerator.sum() / denominator.sum())
            low, high = ratio_intervals(numerator[None], denominator[None], weights)[0]
            record = Record(behaviour="answer", fit_domain="home", test_domain="home", metric=self.metric, hook=hook,
                            arm="single:random" if self.metric == "replace" else "", level="linear", model="small",
                            value=value, low=low, high=high, n=240, groups=len(numerator))  # fmt: skip
            made.append(record.row())
            self.ids[record.id] = hook
        self.records = pd.DataFrame(made).astype({"k": "Int64"})
        self.records.attrs["manifest"] = self.manifest

    def losses_of(self, *record_ids):
        parts = []
        for record in record_ids:
            numerator, denominator = self.sums[self.ids[record]]
            parts.append(pd.DataFrame({"record": record, "group": GROUPS[: len(numerator)], "numerator": numerator,
                                       "denominator": denominator, "n": 4}))  # fmt: skip
        return pd.concat(parts)

    def table(self, name):
        if self.texts is None:
            raise RunError(f"{self.name} has no table '{name}'; it has none.")
        places = [(group, 4 * i + j) for i, group in enumerate(self.texts) for j in range(4)]
        rows = pd.DataFrame({"group": [g for g, _ in places], "example": [e for _, e in places], "position": 3})
        if name == "texts":
            return rows.assign(text=[f"{self.texts[g]} {e % 4}" for g, e in places])[["example", "position", "text"]]
        return rows.assign(behaviour="answer", rule="all", row=rows["example"])

    def rows(self, *, hook=None, behaviour=None, position=None, level=None, source=None, k=None):
        hook = hook or HOOK
        tested, (numerator, _) = self.table("tested_rows"), self.sums[hook]
        bits = np.repeat(numerator, 4)[: len(tested)] / 4
        return tested.assign(hook=hook, level="linear", source="", k=pd.NA, bits=bits, floor_bits=1.0, ceiling_bits=0.0,
                             outcome="yes", probability=0.9, domain="home")  # fmt: skip


def sums(seed=0, gap=0.0, n=60, own=0.05):
    """Groups of one difficulty, whatever the gap."""
    rng = np.random.default_rng(seed)
    hard, spread = rng.exponential(size=n) + 0.1, rng.normal(size=n)
    return hard * (0.6 - gap) + own * spread * (gap != 0), hard + rng.exponential(size=n)


def folder(name, gap=0.0, seed=0, n=60, hooks=(HOOK,), **more):
    return Folder(name, {hook: sums(seed, gap, n) for hook in hooks}, **more)


def test_pairs_tell_what_unpaired_groups_cannot():
    """The same rows twice, the second reader a little better: paired it is told, as two samples it is not."""
    better = folder("b", gap=0.08)
    paired = compare(folder("a"), better).cells.iloc[0]
    assert paired["how"] == "paired" and paired["groups"] == 60
    assert paired["verdict"] == "better" and paired["low"] < paired["difference"] < paired["high"] < 0
    other = MANIFEST | {"provenance": MANIFEST["provenance"] | {"task": {"fingerprint": "ff", "n_rows": 240}}}
    unpaired = compare(folder("a"), folder("b", gap=0.08, manifest=other))
    cell = unpaired.cells.iloc[0]
    assert cell["how"] == "unpaired" and cell["difference"] == pytest.approx(paired["difference"])
    assert cell["verdict"] == "cannot tell" and cell["low"] < 0 < cell["high"]
    assert "nothing shows that both tested the same rows" in str(" ".join(unpaired.sentences))


def test_the_other_way_round_is_worse():
    found = compare(folder("b", gap=0.08), folder("a")).cells.iloc[0]
    back = compare(folder("a"), folder("b", gap=0.08)).cells.iloc[0]
    assert found["verdict"] == "worse" and found["difference"] == -back["difference"]


def test_a_run_against_itself_differs_by_exactly_nothing():
    run = pk.open_run(synthetic_run.shared_run())
    found = compare(run, run, k="all")
    known = found.cells[found.cells["verdict"] != "NA"]
    assert len(known) > 100 and (known["difference"] == 0).all()
    assert (known["low"] == 0).all() and (known["high"] == 0).all() and set(known["verdict"]) == {"equal"}
    assert set(found.comparable["verdict"]) <= {"equal", "unknown"}


def test_what_is_the_same_is_told_first():
    step = MANIFEST | {"provenance": MANIFEST["provenance"] | {
        "model": {"name": "small", "revision": "step-2", "fingerprint": "bb"}, "cell_version": None}}  # fmt: skip
    told = compare(folder("a"), folder("b", manifest=step)).comparable.set_index("what")["verdict"]
    assert told[["model", "data", "floor", "readers"]].tolist() == ["equal"] * 4
    assert told[["revision", "weights"]].tolist() == ["different"] * 2
    assert told["cell version"] == "unknown"
    nothing = compare(folder("a", manifest=None), folder("b")).comparable.set_index("what")["verdict"]
    assert nothing["model"] == "equal" and set(nothing.drop("model")) == {"unknown"}


def test_groups_of_one_name_and_other_texts_are_not_the_same():
    other = MANIFEST | {"provenance": MANIFEST["provenance"] | {"task": {"fingerprint": "ff", "n_rows": 240}}}
    here = {group: f"text of {group}" for group in GROUPS}
    half = {group: text if i < 40 else f"another {i}" for i, (group, text) in enumerate(here.items())}
    few = {group: text if i < 20 else f"another {i}" for i, (group, text) in enumerate(here.items())}
    a = folder("a", texts=here)
    found = compare(a, folder("b", gap=0.08, texts=half, manifest=other)).cells.iloc[0]
    assert found["how"] == "paired" and found["groups"] == 40
    numerator, denominator = (part[:40] for part in sums())
    assert found["a"] == pytest.approx(numerator.sum() / denominator.sum())  # over the shared groups alone
    assert compare(a, folder("b", texts=few, manifest=other)).cells["how"].tolist() == ["unpaired"]


def test_rows_that_changed_the_most_come_first():
    texts = {group: f"text of {group}" for group in GROUPS}
    numerator, denominator = sums()
    moved = numerator.copy()
    moved[7] += 12  # 3 bits on each of its four rows
    a = folder("a", texts=texts)
    b = Folder("b", {HOOK: (moved, denominator)}, texts=texts)
    found = changed_rows(a, b, behaviour="answer", most=6)
    assert set(found["group"].head(4)) == {"g7"} and found["change"].head(4).to_numpy() == pytest.approx(3)
    assert found["text"].iloc[0].startswith("text of g7")
    assert found.attrs["n"] == 240 and found.attrs["worse"] == 4 and found.attrs["better"] == 0
    with pytest.raises(BadInput, match="no row in common"):
        changed_rows(a, folder("c", texts={group: "else" for group in GROUPS}), behaviour="answer")


def test_what_one_run_lacks_is_counted_and_other_cells_stay():
    found = compare(folder("a", hooks=(HOOK, "blocks.2.hook_resid_post")), folder("b"))
    assert len(found.cells) == 1 and found.only["run"].tolist() == ["a"]
    assert "1 more is of one run alone" in " ".join(found.sentences)


def test_replaced_pairs_share_donors_and_are_not_paired_by_group():
    found = compare(folder("a", metric="replace"), folder("b", 0.08, metric="replace"), metric="replace").cells.iloc[0]
    assert found["how"] == "from both intervals"
    assert found["low"] < found["difference"] < found["high"]


def test_several_runs_stand_on_one_axis():
    found = across([folder("a"), folder("b", 0.05), folder("c", 0.1)])
    assert found["run"].tolist() == ["a", "b", "c"]
    assert found["difference"].tolist() == sorted(found["difference"], reverse=True)
    assert found["difference"].iloc[0] == 0 and found["model"].eq("small").all()
    with pytest.raises(BadInput, match="from two on"):
        across([folder("a")])


def test_a_wrong_choice_is_one_sentence():
    with pytest.raises(BadInput, match="no behaviour 'answr'.*answer"):
        compare(folder("a"), folder("b"), behaviour="answr")
    with pytest.raises(BadInput, match="read or replaced"):
        compare(folder("a"), folder("b"), metric="steer")
    with pytest.raises(BadInput, match="is no run"):
        compare("runs/a", folder("b"))
    other = folder("b")
    other.records["behaviour"] = "other"
    with pytest.raises(BadInput, match="no behaviour in common: a has answer and b has other"):
        compare(folder("a"), other)


def test_it_fits_eighty_columns_and_names_are_text():
    name = "<b>bold</b>" * 9
    texts = {group: f"<script>alert('{group}')</script>" for group in GROUPS}
    found = compare(folder("a", texts=texts), folder(name, 0.3, texts=texts))
    assert max(map(len, rendered(found, 80).splitlines())) <= 80
    assert "<script>" not in found._repr_html_() and "<b>bold" not in found._repr_html_()


def deep(name, best, gap=0.0):
    """Three layers: the linear reader is liked best at the last, which the unembedding reads, then at `best`."""
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    told = MANIFEST["provenance"] | {"model": MANIFEST["provenance"]["model"] | {"n_layers": 3}}
    run = Folder(name, {hook: sums(i, gap * (i == best)) for i, hook in enumerate(hooks)},
                 manifest=MANIFEST | {"provenance": told})  # fmt: skip
    frame = run.records.assign(select_bits=[0.1 if i == 2 else 0.2 if i == best else 0.3 for i in range(3)])
    last = Record(behaviour="answer", fit_domain="home", test_domain="home", metric="selected", hook=hooks[2],
                  level="linear", model="small", value=0.6, low=0.5, high=0.7, n=240, groups=60)  # fmt: skip
    run.ids[last.id] = hooks[2]
    run.records = pd.concat([frame, pd.DataFrame([last.row()])], ignore_index=True).astype({"k": "Int64"})
    run.records.attrs["manifest"] = run.manifest
    return run


def test_runs_that_prefer_different_sites_before_the_unembedding_are_compared_at_their_own_and_at_each():
    """A likes layer 0 next, B layer 1: each at its own, paired, and what differs at either site in both."""
    found = compare(deep("a", 0), deep("b", 1, gap=0.3))
    first = found.first
    assert first is not None and (first["chosen_a"], first["chosen_b"]) == tuple(
        f"blocks.{i}.hook_resid_post" for i in range(2)
    )
    assert first["how"] == "paired" and first["verdict"] == "better" and first["high"] < 0
    said = found.sentences[0]
    assert said.startswith("b (B) is better than a (A): a linear reader at L0 resid_post in A and L1 resid_post in B")
    assert "where selection rows prefer to read it before the unembedding, leaves" in said
    assert "At one site in both: at L0 resid_post .00 [.00, .00], at L1 resid_post -." in said


def test_runs_that_agree_on_the_site_before_the_unembedding_are_compared_there_alone():
    found = compare(deep("a", 1), deep("b", 1, gap=0.3))
    at = found.cells[(found.cells["metric"] == "read") & (found.cells["hook"] == "blocks.1.hook_resid_post")].iloc[0]
    assert found.first is not None and found.first["difference"] == at["difference"] < 0
    assert "At one site" not in found.sentences[0] and "L1 resid_post, where selection rows" in found.sentences[0]
