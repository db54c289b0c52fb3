"""Ratios against what else one would run, measured side by side: ``make bench`` and ``make bench-gpu``."""

import os

from simsam_batch.engines.devices import OPENBLAS_WAIT

# As in the workers, and for the peers as well; it counts only if set before NumPy loads.
os.environ.update(OPENBLAS_WAIT)
