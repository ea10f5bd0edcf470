"""What all tests share: no network, one thread per process, reproducible examples."""

import os

# Before torch is imported: several test processes with several threads each would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("probekit", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("probekit")
