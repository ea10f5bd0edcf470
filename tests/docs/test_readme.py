"""The README's Python runs as it stands."""

import re
import tomllib
from pathlib import Path

import pytest

from probekit.spec import JobSpec

README = (Path(__file__).parents[2] / "README.md").read_text()
SCRIPTS = re.findall(r"```python\n(.*?)```", README, re.S)
JOBS = re.findall(r"```toml\n(.*?)```", README, re.S)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script of the README in an empty folder; returns its names."""

    def run(script: str) -> dict:
        monkeypatch.chdir(tmp_path)
        names: dict = {}
        exec(compile(script, "README.md", "exec"), names)
        return names

    return run


def test_the_captured_script_is_about_ten_lines_and_explains_the_last_layer(run, tmp_path):
    assert len(SCRIPTS[0].strip().splitlines()) <= 12
    records = run(SCRIPTS[0])["records"]
    records = records.query("behaviour == 'next_move_law' and metric == 'read' and control == '' and floor == 'strong'")
    by_hook = records.query("level == 'linear' and test_domain == 'random_play'").set_index("hook")["value"]
    assert by_hook["blocks.5.hook_resid_post"] < 0.05 < 0.5 < by_hook["blocks.0.hook_resid_post"]
    assert (tmp_path / "leak_map.html").stat().st_size > 10_000


def test_the_script_with_arrays(run, capsys):
    found = run(SCRIPTS[1])
    shown = capsys.readouterr().out.splitlines()
    assert all(name in shown[0] for name in ("level", "value", "low", "high")), "pandas leaves columns out"
    records = (
        found["records"].query("metric == 'read' and control == '' and floor == 'strong'").set_index("level")["value"]
    )
    assert records["linear"] > 0.95
    assert records["simple:two_thresholds"] < 0.05


def test_the_jobs_are_valid():
    whole = tomllib.loads(JOBS[0]) | tomllib.loads(JOBS[1])
    spec = JobSpec.check(whole, "README.md")
    assert spec.hypotheses[0].name == "rules"
    text = JobSpec.check({"name": "claims", **tomllib.loads(JOBS[2])}, "README.md")
    assert (text.task.source, text.read.delete) == ("template", ("tag",))
