"""Large arrays lie in files that have no name, and a site of more rows than memory is measured in what there is."""

import subprocess
import sys

import numpy as np
import pytest

from probekit.errors import BadInput
from probekit.storage import files, scratch

READER = """
import sys
from pathlib import Path
from probekit.proofs.bench import scale
from probekit.storage import scratch
scale.LEFT, scale.SQUARES = 240, 0
if sys.argv[2] == "in memory":
    scratch.free_memory = lambda: None
told = []
print(scale.on_disk(Path(sys.argv[1]), 140_000, 512, told.append).gap, told[0]["private_mb"])
"""


def test_small_arrays_stay_in_memory_and_large_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "free_memory", lambda: 2**30)
    small, large = scratch.empty((2**12, 2**10), np.float32), scratch.empty((2**15, 2**10), np.float32)
    assert small.base is None and isinstance(large.base, np.memmap) and type(large) is np.ndarray
    large[:] = np.arange(2**10)
    assert large.sum() == 2**15 * (2**10 - 1) * 2**9 and large.flags.writeable
    assert not list(tmp_path.iterdir())  # no name, so that nothing is left behind
    with pytest.raises(BadInput, match=r"take 1,152,921,504,606,846,976 bytes of .*, which has .* left .*TMPDIR"):
        scratch.empty((2**48, 2**10), np.float32)
    assert not list(tmp_path.iterdir())


def test_what_a_scheduler_allows_is_what_is_free(tmp_path, monkeypatch):
    name = files.Path("/proc/self/cgroup").read_text(encoding="ascii").split("0::")[-1].split("\n")[0].strip("/")
    group = tmp_path / name
    group.mkdir(parents=True, exist_ok=True)
    assert files._of_group(tmp_path) is None
    for file, text in (("max", "1000000"), ("current", "700000"), ("stat", "anon 600000\ninactive_file 50000\n")):
        (group / f"memory.{file}").write_text(text)
    assert files._of_group(tmp_path) == 350_000
    (group / "memory.max").write_text("max\n")
    assert files._of_group(tmp_path) is None
    monkeypatch.setattr(files, "_of_process", lambda: 17)
    assert files.free_memory() == 17


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of private memory is Linux's")
def test_a_site_is_read_in_less_memory_than_one_copy_of_its_rows_takes(tmp_path):
    def run(how):
        asked = [sys.executable, "-c", READER, str(tmp_path / "rows"), how]
        return subprocess.run(asked, capture_output=True, text=True, check=False)

    found = run("in files")
    assert not found.returncode, found.stderr
    gap, private = map(float, found.stdout.split())
    assert abs(gap) < 0.03 and private < 240 < 140_000 * 512 * 4 / 2**20
    found = run("in memory")
    assert found.returncode and ("memory" in found.stderr or "allocate" in found.stderr)
