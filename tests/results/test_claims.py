"""Claims: verdicts on records of known value, NA that is passed on, and error rates at the border of a margin."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import synthetic_run
from probekit.errors import BadInput
from probekit.records import Losses, Record
from probekit.results.claims import CLAIMS, COLUMNS, Claim, Need, judge, judge_each, selected_hook, to_read
from probekit.storage.runs import open_run

HOOK = "blocks.1.hook_resid_post"
HERE = {"behaviour": "b", "fit_domain": "a", "hook": HOOK, "level": "directions", "source": "behaviour", "k": 2}


def record(value: float | None, half: float = 0.01, **at) -> Record:
    interval = {} if value is None else {"low": value - half, "high": value + half}
    given = {**HERE, "test_domain": "a", "metric": "read", "n": 1000, "groups": 100, **at}
    return Record(value=value, **interval, **given)


def frame(*records: Record) -> pd.DataFrame:
    return pd.DataFrame([record.row() for record in records]).astype({"k": "Int64", "layer": "Int64"})


def claim_of(table: pd.DataFrame) -> tuple[str, str]:
    last = table.iloc[-1]
    assert last["measure"].startswith("claim: ")
    return last["verdict"], last["reason"]


def ask(records: pd.DataFrame, claim: Claim | str, losses: pd.DataFrame | None = None, **more) -> pd.DataFrame:
    return judge(records, losses, claim, **{"behaviour": "b", "hook": HOOK, "level": "directions", **more})


def used(sufficiency=0.0, necessity=0.0, illusion=0.0, twin=1.0, placebo=1.0) -> list[Record]:
    """Five measures of a claim of use; necessity and the illusion gap stand under arms that exist today."""
    at = {"metric": "replace", "arm": "single:random"}
    return [
        record(sufficiency, **at),
        record(necessity, metric="replace", arm="single:matched"),
        record(illusion, metric="replace", arm="single:random:pair"),
        record(twin, **at, control="random_twin"),
        record(placebo, **at, control="random_directions", source="random"),
    ]


USES = Claim(
    "the model uses it",
    (
        Need(name="sufficiency", metric="replace", arm="random"),
        Need(name="necessity", metric="replace", arm="matched"),
        Need(name="illusion gap", metric="replace", arm="random:pair"),
        Need(name="random network", metric="replace", arm="random", control="random_twin", far=True),
        Need(name="placebo", metric="replace", arm="random", control="random_directions", source="random", far=True),
    ),
)


@pytest.mark.parametrize(
    ("value", "half", "verdict", "claim"),
    [(0.02, 0.01, "passed", "holds"), (0.5, 0.01, "failed", "fails"), (0.09, 0.05, "undecided", "undecided"),
     (0.12, 0.05, "undecided", "undecided"), (-0.4, 0.1, "failed", "fails")],
)  # fmt: skip
def test_one_measure_passes_fails_or_is_undecided(value, half, verdict, claim):
    table = ask(frame(record(value, half)), "predicts in distribution")
    assert list(table.columns) == list(COLUMNS)
    row = table.iloc[0]
    assert (row["measure"], row["value"], row["low"], row["high"]) == ("read", value, value - half, value + half)
    assert (row["margin"], row["verdict"]) == (0.1, verdict)
    assert row["smallest_detectable"] == pytest.approx((1.645 + 1.282) * half / 1.96, rel=1e-3)
    assert claim_of(table)[0] == claim


def test_a_wider_margin_certifies_what_a_narrow_one_does_not():
    records = frame(record(0.12, 0.02))
    assert [claim_of(ask(records, "predicts in distribution", margin=m))[0] for m in (0.05, 0.12, 0.2)] == [
        "fails", "undecided", "holds"]  # fmt: skip
    own = Claim("mine", (Need(name="read", metric="read", margin=0.2),))
    assert claim_of(ask(records, own, margin=0.05))[0] == "holds"


def test_a_conjunction_holds_only_if_every_measure_passes():
    assert claim_of(ask(frame(*used()), USES)) == ("holds", "")
    broken = {"sufficiency": 0.4, "necessity": 0.4, "illusion": 0.4, "twin": 0.02, "placebo": 0.02}
    for name, value in broken.items():
        verdict, reason = claim_of(ask(frame(*used(**{name: value})), USES))
        assert verdict == "fails" and reason.startswith("failed: ") and "," not in reason
    # four perfect measures do not make up for the fifth, and one bad value is not hidden in a mean
    assert claim_of(ask(frame(*used(necessity=0.12)), USES))[0] == "fails"


def test_a_control_that_is_near_the_margin_decides_nothing():
    verdict, reason = claim_of(ask(frame(*used(twin=0.105)), USES))
    assert (verdict, reason) == ("undecided", "undecided: random network")
    for value in (-0.5, -0.1, 0.0):  # far, but on the side of explaining even more
        verdict, reason = claim_of(ask(frame(*used(twin=value)), USES))
        assert (verdict, reason) == ("fails", "failed: random network")


def test_what_was_not_measured_makes_the_claim_na_and_is_named():
    table = ask(frame(*(one for one in used() if one.arm == "single:random")), USES)
    verdict, reason = claim_of(table)
    assert verdict == "NA"
    assert reason == "NA: necessity (not measured), illusion gap (not measured)"
    assert table["verdict"].tolist()[:-1] == ["passed", "NA", "NA", "passed", "passed"]
    assert table.loc[1, ["value", "low", "smallest_detectable"]].isna().all()


def test_na_with_a_reason_is_passed_on_though_another_measure_failed():
    records = [record(None, na_reason="small_denominator", metric="replace", arm="single:random"), *used(illusion=0.9)]
    verdict, reason = claim_of(ask(frame(*records[:1], *records[2:]), USES))
    assert (verdict, reason) == ("NA", "NA: sufficiency (nothing to explain); failed: illusion gap")


def test_na_of_a_whole_level_has_neither_source_nor_k():
    missing = record(None, na_reason="too_few_rows", source="", k=None)
    for k in (None, 2):
        table = ask(frame(missing, record(0.0, hook="blocks.0.hook_resid_post")), "predicts in distribution")
        assert claim_of(table) == ("NA", "NA: read (too few rows)"), k


def _moved(value: float | None, domain: str, **at) -> Record:
    return record(value, metric="transfer", arm="refit", test_domain=domain, **at)


def test_the_unseen_is_judged_in_every_domain_and_absence_by_read_there():
    seen = record(0.02)
    away = "predicts the unseen"
    assert claim_of(ask(frame(seen, _moved(0.03, "b"), _moved(0.01, "c")), away)) == ("holds", "")
    verdict, reason = claim_of(ask(frame(seen, _moved(0.0, "b"), _moved(0.3, "c")), away))
    assert (verdict, reason) == ("fails", "failed: transfer to c")  # the mean, .15, is nowhere
    absent = _moved(None, "b", na_reason="absent_in_test_domain")
    table = ask(frame(seen, absent, record(0.98, fit_domain="b", test_domain="b")), away)
    assert table["measure"].tolist() == ["read", "read in b", "claim: predicts the unseen"]
    assert claim_of(table) == ("fails", "failed: read in b")
    assert claim_of(ask(frame(seen, absent), away)) == ("NA", "NA: read in b (not measured)")
    assert claim_of(ask(frame(seen), away)) == ("NA", "NA: transfer (not measured)")
    other = _moved(None, "b", na_reason="not_converged")
    assert claim_of(ask(frame(seen, other), away)) == ("NA", "NA: transfer to b (not converged)")


def _with_losses(numerator: np.ndarray, denominator: np.ndarray, **at) -> tuple[Record, pd.DataFrame]:
    value = float(numerator.sum() / denominator.sum())
    made = record(value, 0.5, groups=len(numerator), **at)
    names = [str(i) for i in range(len(numerator))]
    losses = Losses(made.id, names, numerator.tolist(), denominator.tolist(), [10] * len(names))
    return made, pd.DataFrame(vars(losses))


def test_group_sums_are_used_where_there_are_any():
    rng = np.random.default_rng(0)
    made, losses = _with_losses(0.02 + 0.1 * rng.normal(size=60), np.ones(60))
    table = ask(frame(made), "predicts in distribution", losses)
    assert table.loc[0, "verdict"] == "passed"  # the interval on the record is as wide as .5
    assert table.loc[0, "smallest_detectable"] == pytest.approx(2.97 * 0.1 / np.sqrt(60), rel=0.2)
    assert ask(frame(made), "predicts in distribution").loc[0, "verdict"] == "undecided"
    other = ask(frame(record(0.3)), "predicts in distribution", losses.assign(record=record(0.3).id))
    assert other.loc[0, "verdict"] == "failed" and "another value" in other.loc[0, "reason"]
    again = ask(frame(made), "predicts in distribution", losses)
    pd.testing.assert_frame_equal(table, again)


def test_few_clusters_and_a_missing_interval_are_said():
    assert ask(frame(record(0.0, groups=12)), "predicts in distribution").loc[0, "reason"] == "fewer than 20 clusters"
    bare = frame(record(0.0)).assign(low=np.nan, high=np.nan)
    table = ask(bare, "predicts in distribution")
    assert (table.loc[0, "verdict"], table.loc[0, "reason"]) == ("undecided", "has no interval")


def test_a_false_claim_is_said_to_hold_and_a_true_one_to_fail_in_at_most_alpha_of_runs():
    """Three measures with true value at the margin: any correction-free 'fails' would be wrong three times as often."""
    rng = np.random.default_rng(1)
    needs = tuple(Need(name=arm, metric="transfer", arm=arm) for arm in ("raw", "refit", "platt50"))
    claim, reps = Claim("at the border", needs), 120
    verdicts = []
    for _ in range(reps):
        made = [record(0.1 + 0.02 / 1.96 * float(rng.normal()), 0.02, metric="transfer", arm=n.arm) for n in needs]
        verdicts.append(claim_of(ask(frame(*made), claim))[0])
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / reps)
    assert verdicts.count("holds") / reps <= limit
    assert verdicts.count("fails") / reps <= limit
    holds = 0
    for z in scipy.stats.norm.ppf((np.arange(40) + 0.5) / 40):  # one at the border, two perfect: it decides, at alpha
        made = [record(0.1 + 0.02 / 1.96 * float(z), 0.02, metric="transfer", arm="raw")]
        made += [record(0.0, 0.02, metric="transfer", arm=arm) for arm in ("refit", "platt50")]
        holds += claim_of(ask(frame(*made), claim))[0] == "holds"
    assert holds == 2


def test_a_run_folder_is_judged_with_its_losses():
    run = open_run(synthetic_run.shared_run())
    table = judge(
        run.records, run.losses_of(*run.records["id"].head(3)), "predicts the unseen", behaviour="pass_or_play",
        hook="blocks.5.hook_resid_post", level="linear", domain="endgame",
    )  # fmt: skip
    assert table["measure"].tolist() == [
        "read", "read in random", "transfer to championship", "claim: predicts the unseen"]  # fmt: skip
    assert claim_of(table) == ("fails", "failed: transfer to championship")
    chain = judge(
        run.records, None, USES, behaviour="next_move", hook="", level="directions",
        source="behaviour", k=16,
    )  # fmt: skip
    assert chain.loc[0, "arm"] == "chain:random" and chain.loc[0, "verdict"] == "failed"
    assert claim_of(chain)[0] == "NA"


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"behaviour": "next_mov"}, "no behaviour 'next_mov'. Did you mean 'next_move'"),
        ({"hook": "blocks.9.hook_resid_post"}, "no hook 'blocks.9.hook_resid_post'"),
        ({"level": "linaer"}, "no level 'linaer'. Did you mean 'linear'"),
        ({"domain": "opening"}, "no domain 'opening'"),
        ({"claim": "predicts the unsaid"}, "no claim 'predicts the unsaid'. Did you mean 'predicts the unseen'"),
        ({"level": "direction"}, "direction was measured from mean_difference, logistic: say which"),
        ({"level": "direction", "source": "lda"}, "no source 'lda'"),
        ({"k": 3}, "directions was not measured at k = 3; there is 0, 1, 2, 4"),
        ({"claim": Claim("nothing", ())}, "needs no measure"),
        ({"margin": -0.1}, "a margin is at least 0"),
    ],
)
def test_what_cannot_be_selected_is_said_in_one_sentence(selection, message):
    records = open_run(synthetic_run.shared_run()).records
    given = {"claim": "predicts in distribution", "behaviour": "next_move", "hook": "blocks.2.hook_resid_post"}
    with pytest.raises(BadInput, match=message.replace(".", r"\.")):
        judge(records, None, **{**given, "level": "directions", **selection})


def test_claims_that_do_not_fit_a_selection_are_left_out_with_the_reason(monkeypatch):
    records = open_run(synthetic_run.shared_run()).records
    at = {"behaviour": "next_move", "hook": "blocks.2.hook_resid_post", "level": "direction"}
    monkeypatch.setitem(CLAIMS, "is used", Claim("is used", (Need(name="kept", metric="replace", arm="random"),)))
    judged, left_out = judge_each(records, None, list(CLAIMS), **at)
    why = "direction was measured from mean_difference, logistic: say which source the claim is about."
    assert left_out == {"predicts in distribution": why, "predicts the unseen": why}
    assert list(judged) == ["the model uses it", "is used"]  # of what was not measured a claim is NA
    assert claim_of(judged["the model uses it"])[0] == "NA"
    assert judged["is used"].equals(judge(records, None, "is used", **at))
    every, none = judge_each(records, None, list(CLAIMS), **at | {"level": "linear"})
    assert (list(every), none) == (list(CLAIMS), {})
    with pytest.raises(BadInput, match="^direction was measured from mean_difference, logistic: say which .* about.$"):
        judge_each(records, None, list(left_out), **at)
    with pytest.raises(BadInput, match="a margin is at least 0"):
        judge_each(records, None, list(CLAIMS), **at, margin=-1)


def test_two_runs_in_one_frame_are_told_apart():
    with pytest.raises(BadInput, match="read has 2 records that differ in model"):
        ask(frame(record(0.1), record(0.2, model="other")), "predicts in distribution")


def test_every_claim_that_comes_with_the_package_needs_read_or_replace():
    assert set(CLAIMS) == {"predicts in distribution", "predicts the unseen", "the model uses it"}
    assert all({need.metric for need in claim.needs} & {"read", "replace"} for claim in CLAIMS.values())


@pytest.mark.parametrize(
    ("kept", "erased", "random", "verdict"),
    [(0.02, 0.02, 1.0, "holds"), (0.02, 0.6, 1.0, "fails"), (0.6, 0.02, 1.0, "fails"), (0.02, 0.02, 0.02, "fails")],
)
def test_a_model_uses_what_is_enough_and_cannot_go(kept, erased, random, verdict):
    """Kept alone it must do, erased it must be missed, and random directions of as many must not do as well."""
    at = {"metric": "replace", "arm": "single:random"}
    rows = [record(kept, **at), record(erased, metric="replace", arm="necessity:resample"),
            record(random, **at, control="random_directions", source="random")]  # fmt: skip
    assert claim_of(ask(frame(*rows), "the model uses it"))[0] == verdict
    assert claim_of(ask(frame(*rows[:1]), "the model uses it"))[0] == "NA"


@pytest.mark.parametrize(("exchange", "twin", "shuffled", "placebo", "verdict"), [
    (0.02, 1.0, 1.0, 1.0, "holds"), (0.02, 0.02, 1.0, 1.0, "fails"), (0.02, 1.0, 0.02, 1.0, "fails"),
    (0.02, 1.0, 1.0, 0.02, "fails"), (None, 0.02, 1.0, 1.0, "NA"), (0.02, None, 1.0, 1.0, "NA"),
])  # fmt: skip
def test_what_was_learned_by_exchange_has_to_be_more_than_the_search(exchange, twin, shuffled, placebo, verdict):
    at = {"metric": "replace", "source": "das"}
    rows = [record(0.02, **at, arm="single:random"), record(0.02, **at, arm="necessity:resample"),
            record(1.0, metric="replace", arm="single:random", control="random_directions", source="random"),
            record(exchange, **at, arm="iia", na_reason="" if exchange else "vacuous"),
            record(shuffled, **at, arm="iia", control="shuffled_counterfactuals"),
            record(placebo, **at, arm="iia", control="placebo")]  # fmt: skip
    rows += [record(twin, **at, arm="iia", control="random_twin")] if twin else []  # a search that was not made
    told = ask(frame(*rows), "the model uses it", source="das")
    assert claim_of(told)[0] == verdict
    if exchange is None:
        assert "interchange (as in a random network)" in claim_of(told)[1]


def test_a_claim_is_about_the_place_that_selection_rows_prefer():
    at = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    reads = [record(value, hook=hook) for value, hook in zip((0.3, 0.01, 0.2), at, strict=True)]
    assert selected_hook(frame(*reads), behaviour="b", level="directions") == at[2]
    chosen = record(0.3, metric="selected", hook=at[0])
    assert selected_hook(frame(*reads, chosen), behaviour="b", level="directions") == at[0]
    with pytest.raises(BadInput, match="linaer"):
        selected_hook(frame(*reads), behaviour="b", level="linaer")


def test_what_people_read_has_every_measure_and_no_number_where_there_is_none():
    shown = to_read(
        ask(
            frame(
                record(0.02), record(None, metric="transfer", arm="refit", test_domain="x", na_reason="not_converged")
            ),
            "predicts the unseen",
        )
    )
    assert shown["measure"].tolist() == ["read", "transfer to x"]
    assert shown["FBU [95 %]"].tolist() == [".02 [.01, .03]", "NA"]
    assert shown["detectable"].tolist() == [".01", ""]
