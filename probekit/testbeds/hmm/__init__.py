"""Hidden Markov processes whose beliefs are known exactly, and small transformers that were trained on them.

CARD.md beside the weights says how they were trained and how near they come to the exact law.
"""

from pathlib import Path

from probekit.testbeds.hmm.networks import Transformers
from probekit.testbeds.hmm.planted import Plant
from probekit.testbeds.hmm.processes import LENGTH, PROCESSES, Process
from probekit.testbeds.training import names_in, parts_of

__all__ = ["FILE", "LENGTH", "PROCESSES", "Plant", "Process", "Transformers", "load_transformers", "process_of",
           "stored_names"]  # fmt: skip
FILE = Path(__file__).with_name("networks.safetensors")
TAUGHT = "taught"  # networks of the triangle that were given the law of the cheaper account


def stored_names(file: Path = FILE) -> list[str]:
    """Names of what is stored: processes, `taught`, and `triangle@60` for networks on their way at a step."""
    return names_in(file)


def process_of(name: str) -> Process:
    """The process that networks of a stored name read."""
    plain = name.split("@")[0]
    return PROCESSES["triangle" if plain == TAUGHT else plain]


def load_transformers(name: str, file: Path = FILE) -> Transformers:
    """Trained networks by name, a seed each. Raises BadInput for another one, naming the nearest.

    >>> import torch
    >>> from probekit.testbeds.hmm import load_transformers
    >>> said = load_transformers("mess3").logits(torch.tensor([[0, 0, 0]]))
    >>> said[:, 0, -1].argmax(-1).unique().tolist()
    [0]
    """
    return Transformers(parts_of(name, file))
