"""Published numbers beside a run's own."""

import math

import pytest

import probekit as pk
import synthetic_run
from probekit.errors import BadInput
from probekit.results.reported import Reported, beside, read_reported

GOOD = """
[[reported]]
source = "Smith et al. 2024, table 3"
value = 0.5
where = "blocks.2.hook_resid_post"

[[reported]]
source = "Jones 2025"
value = 0.9
where = 3
metric = "auroc"
low = 0.85
high = 0.95
"""


def written(folder, text):
    path = folder / "reported.toml"
    path.write_text(text)
    return path


def test_a_file_is_read(tmp_path):
    first, second = read_reported(written(tmp_path, GOOD))
    assert first == Reported(
        "Smith et al. 2024, table 3", 0.5, "blocks.2.hook_resid_post", low=first.low, high=first.high
    )
    assert math.isnan(first.low)
    assert second.hook == "blocks.3.hook_resid_post" and (second.low, second.high) == (0.85, 0.95)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tables and nothing else; found none"),
        ("[[reported]]\nvalue = 1\n", "lacks source, where"),
        ('[[reported]]\nsource = "a"\nvalue = 1\nwhere = 1\nmetrics = "x"\n', "Did you mean 'metric'"),
        ('[[reported]]\nsource = "a"\nvalue = "x"\nwhere = 1\n', "value is of another type"),
        ('[[reported]]\nsource = "a"\nvalue = true\nwhere = 1\n', "value is of another type"),
        (
            '[[reported]]\nsource = "a"\nvalue = 1\nwhere = 1\nmetric = "loss"\n',
            "metric is one of fbu, auroc, accuracy",
        ),
        ("[[reported]\n", "is no TOML"),
        ("reported = [1]\n", "is no table"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, text, said):
    with pytest.raises(BadInput) as error:
        read_reported(written(tmp_path, text))
    assert said in str(error.value)
    assert "\n" not in str(error.value) or "TOML" in said


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_reported(tmp_path / "gone.toml")


def test_how_far_apart_they_are_is_told():
    run = pk.open_run(synthetic_run.shared_run())
    hook = "blocks.2.hook_resid_post"
    rows = run.records.query("metric == 'read' and control == '' and floor == 'strong' and level == 'linear'")
    row = rows[(rows["hook"] == hook) & (rows["behaviour"] == "next_move") & (rows["fit_domain"] == "random")].iloc[0]
    asked = [
        Reported("near", row["value"] + 0.001, hook),
        Reported("far", row["value"] + 0.3, hook),
        Reported("other", 0.5, hook, behaviour="another"),
        Reported("nowhere", 0.5, "blocks.9.hook_resid_post"),
    ]
    found = beside(run.records, asked, behaviour="next_move")
    assert found["source"].tolist() == ["near", "far", "nowhere"]
    assert found["apart"].iloc[:2].to_numpy() == pytest.approx([0.001, 0.3])
    assert "inside our interval" in found["said"].iloc[0] and "outside our interval" in found["said"].iloc[1]
    assert found["here"].iloc[2] == "not measured" and math.isnan(found["apart"].iloc[2])
