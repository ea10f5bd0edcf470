"""Does the model use it: known values beside as many random directions, and nothing said where nothing was kept."""

import pytest

from probekit.results.used import UNKNOWN, used
from tests.results.test_summary import curve, frame, post, record

KEPT = {"level": "directions", "source": "behaviour", "metric": "replace", "arm": "chain:matched"}


def kept(value, k=4, **more):
    return record(value, "", **(KEPT | {"k": k} | more))


def random(value, k=4, **more):
    return kept(value, k, control="random_directions", source="random", **more)


@pytest.mark.parametrize(
    ("own", "beside", "said"),
    [
        (0.2, 0.9, "Mostly used: kept alone (all sites, donors alike in it), 4 directions leave .20 [.17, .23] "
         "unexplained, as many random ones .90 [.87, .93]."),
        (0.6, 0.9, "Used in part: "),
        (0.88, 0.9, "Not shown to be used: "),  # below 1, which alone would pass for use, and no better than any others
        (1.3, 1.6, "Not shown to be used: "),  # better than random ones, and no better than the input alone
        (0.2, None, "Used or not cannot be told beside no random directions: "),
    ],
)  # fmt: skip
def test_what_is_kept_is_judged_beside_as_many_random_directions(own, beside, said):
    few = [kept(1.1, 2), random(0.0, 2)]  # fewer directions, whose random ones are not theirs
    found = [*curve(0.9, 0.0), kept(own), *few, *([] if beside is None else [random(beside)])]
    assert used(frame(*found)).startswith(said)


def test_what_is_read_is_never_said_to_be_used():
    assert used(frame(*curve(0.9, 0.0, 0.0))) == UNKNOWN
    assert used(frame(*curve(0.9, 0.0), kept(0.1, 0), kept(None, 4, na_reason="too_few_rows"))) == UNKNOWN


def test_at_one_site_it_is_the_one_that_selection_rows_prefer():
    one = {"arm": "single:matched", "hook": post(1), "layer": 1}
    other = {"arm": "single:matched", "hook": post(0), "layer": 0}
    chosen = record(0.3, post(1), metric="selected")
    made = [record(v, at["hook"], **{**KEPT, "k": 4, "arm": at["arm"]}) for v, at in ((0.2, other), (0.7, one))]
    told = used(frame(*curve(0.9, 0.3), chosen, *made))
    assert "kept alone at L1 resid_post (one site, donors alike in it), 4 directions leave .70" in told
