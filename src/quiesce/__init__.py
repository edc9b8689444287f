"""Quiesce: self-hosted VM backup with application-consistent snapshots."""

import os

__version__ = "0.1.0"

# Nobody here multiplies matrices, for which numpy would start a thread a core when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
