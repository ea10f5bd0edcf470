"""docs/studies/sizes.md holds what its study found: its tables are of the JSON beside it, its words of its tables."""

from pathlib import Path

import pytest

from probekit.inputs.folders import bundled_folder
from probekit.proofs.studies.sizes import SIZES, SizesFindings
from probekit.testbeds.tinyworld.world import rare_holders, rare_places

DOCS = Path(__file__).parents[2] / "docs"
STUDY = DOCS / "studies" / "sizes.json"
PAGE = STUDY.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def found():
    return SizesFindings.read(STUDY)


def test_it_is_of_the_networks_that_are_bundled(found):
    assert set(found.networks) == set(SIZES)
    assert all(f"tiny-world-{name}/CARD.md" in PAGE for name in SIZES)
    for name in SIZES:
        folder = bundled_folder(f"tiny-world-{name}")
        assert folder is not None and f'"d_model": {int(found.networks[name]["width"])}' in (
            folder / "checkpoints.json"
        ).read_text(encoding="utf-8")
    assert len(rare_places()) == len(rare_holders()) == 10 and "Ten pairs of an object" in PAGE
