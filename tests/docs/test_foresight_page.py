"""docs/studies/foresight.md and ladder.md hold what their studies found: tables and claims are of the JSON files."""

from datetime import datetime
from pathlib import Path

from probekit.proofs.studies import foresight, foresight_words, ladder
from probekit.proofs.studies.foresight import BAD, DOMAINS, OWN, ForesightFindings
from probekit.proofs.studies.ladder import LadderFindings
from probekit.testbeds.othello.task import UNSEEN

DOCS = Path(__file__).parents[2] / "docs"
STUDIES = {
    "foresight": (ForesightFindings, foresight_words.tables),
    "ladder": (LadderFindings, ladder.tables),
}


def page_of(name):
    return (DOCS / "studies" / f"{name}.md").read_text(encoding="utf-8")


def found(name):
    return STUDIES[name][0].read(DOCS / "studies" / f"{name}.json")


def told(name):
    return STUDIES[name][1](found(name))


def test_every_ranking_was_sealed_before_the_network_answered():
    sealed = found("foresight").sealed
    boards = {(domain, kind) for domain in DOMAINS for kind in BAD}
    words = {(domain, kind) for domain in foresight_words.DOMAINS for kind in foresight_words.BAD}
    assert {(row["domain"], row["bad"]) for row in sealed} == boards | words
    assert all(datetime.fromisoformat(row["written"]) < datetime.fromisoformat(row["began"]) for row in sealed)


def test_what_foresight_claims_is_what_its_tables_say():
    """On games that were never seen the abstraction finds more than chance and than both classifiers of the moves."""
    frame = found("foresight").frame
    here = frame[(frame["budget"] == foresight.BUDGET) & (frame["ranking"] == OWN) & (frame["measure"] == "recall")]
    for domain in UNSEEN:
        some = here[(here["domain"] == domain) & (here["bad"] == "loose")].set_index("less")
        assert some.loc["", "low"] > 2 * foresight.BUDGET
        assert all(some.loc[name, "low"] > 0 for name in ("moves", "text", "unusual", "confidence"))


def test_what_the_ladder_claims_is_what_its_tables_say():
    """The rules lose nothing, each leap upwards leaves less, and a stack beats a direct reader of the same layer."""
    frame = found("ladder").frame
    seen = frame[(frame["domain"] == "random_play")]
    left = seen[seen["what"] == "left"]
    true = left[left["layer"].isna()].set_index(["from", "to"])["value"]
    assert true["squares", "legal set"] < 0.01 and true["next move", "edge"] < 0.01
    layer = ladder.best_layer(frame)
    at = left[left["layer"] == layer].set_index("to")
    assert at.loc["next move", "high"] < at.loc["squares", "low"]
    direct = seen[(seen["what"] == "direct") & (seen["layer"] == layer)].set_index("to")
    assert at.loc["next move", "high"] < direct.loc["next move", "low"]
    excess = seen[(seen["what"] == "excess") & (seen["layer"] == layer)].set_index("to")
    assert (excess["high"] < 0).all()


def test_what_the_ladder_claims_of_words_is_what_its_tables_say():
    """Facts follow from entities, which are not at the question mark; read there at once, they tell the answer."""
    frame = found("ladder").frame
    frame = frame[(frame["domain"] == "stories") & (frame["layer"].isna() | (frame["layer"] == 1))]
    left = frame[frame["what"] == "left"].set_index(["from", "to"])
    assert left.loc[("entities", "facts"), "high"] < 0.01 and left.loc[("entities", "answer"), "high"] < 0.15
    assert left.loc[("directions", "entities"), "low"] > 0.95
    assert left.loc[("directions to facts", "answer"), "high"] < 0.1 < left.loc[("directions", "answer"), "low"]
    replaced = frame[frame["what"] == "replace"].set_index("from")
    assert replaced.loc["facts", "high"] < replaced.loc["entities", "low"] / 5


def test_what_foresight_claims_of_questions_is_what_its_tables_say():
    """False answers are found in advance, of rare pairs too; among stories like the seen ones better than by words."""
    frame = found("foresight").frame
    here = frame[(frame["budget"] == foresight.BUDGET) & (frame["ranking"] == OWN) & (frame["bad"] == "false")]
    recall = here[here["measure"] == "recall"].set_index(["domain", "less"])
    assert recall.loc[("stories", ""), "low"] > 0.5 and recall.loc[("rare_pairs", ""), "low"] > 3 * foresight.BUDGET
    assert recall.loc[("stories", "text"), "low"] > 0 > recall.loc[("stories", "tokens"), "low"]
    learned = found("foresight").learned
    assert f"{learned['story false']} false and {learned['story close']} close ones among {learned['questions']:,}" in (
        page_of("foresight")
    )
