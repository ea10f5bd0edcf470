"""The study of pronouns on a few names: what it keeps, and its table."""

import csv

import checkpoints
from probekit.proofs.studies import pronouns, truth
from probekit.proofs.studies.pronouns import HE, SHE, TEMPLATES, measure_pronouns, tables, write_sentences
from probekit.proofs.studies.truth import Findings, figures_of


def names_model(folder):
    """A random model whose words are those of the sentences, and the two that go on from them."""
    told = [template.format(name) for name in SHE + HE for template in TEMPLATES]
    checkpoints.write(folder / "plain", "llama", tokenizer=checkpoints.words([*told, "she he"]), d_model=8)
    return checkpoints.sharpen(folder / "plain", folder / "model")


def test_every_name_has_every_sentence(tmp_path):
    assert len(set(SHE + HE)) == len(SHE) + len(HE) == 80
    assert write_sentences(tmp_path / "rows.csv", 30) == 30 * 2 * len(TEMPLATES)
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["sentence"] for row in rows}) == len(rows) and all(row["name"] in row["sentence"] for row in rows)


def test_the_study_runs_on_a_part_of_the_names(tmp_path, monkeypatch):
    job = pronouns.SPEC.read_text(encoding="utf-8")
    assert "donors = 8" in job
    (tmp_path / "light.toml").write_text(job.replace("donors = 8", "donors = 2"), encoding="utf-8")
    monkeypatch.setattr(pronouns, "SPEC", tmp_path / "light.toml")
    run, found = measure_pronouns(
        names_model(tmp_path), tmp_path / "study", root=tmp_path / "runs", store=tmp_path / "store", n_sites=1
    )
    assert not run.manifest["cells"]["failed"] and found.statements == 320
    made = tables(found)["kept"]
    assert made["site"].tolist() == ["L2 resid_post"] and (made != "NA").all(axis=None)
    assert len(figures_of(found, tables)) > 2
    found.write(tmp_path / "kept.json")
    assert Findings.read(tmp_path / "kept.json") == found
    page = truth.with_tables("<!-- table: kept -->\n<!-- end -->\n", found, tables)
    assert all(cell in page for cell in made.to_numpy().ravel())
