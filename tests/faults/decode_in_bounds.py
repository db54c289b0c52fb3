"""A child process that decodes files in a bounded address space.

    python decode_in_bounds.py MIB SECONDS FILE...

It prints a JSON list with ``[kind, message, processor seconds]`` for each file; ``decoded`` is a kind.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from decode_many import bound_memory
from mutated_images import small_files

from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode


def main() -> None:
    limits = ImageLimits(decode_seconds=float(sys.argv[2]))
    # Pillow warns of damaged metadata
    warnings.simplefilter("ignore")
    decode(small_files()["baseline.JPEG"], limits)
    bound_memory(int(sys.argv[1]) << 20)
    found = []
    for name in sys.argv[3:]:
        start = time.thread_time()
        try:
            decode(Path(name).read_bytes(), limits)
            kind, message = "decoded", ""
        except ImageError as error:
            kind, message = error.kind, error.message
        found.append((kind, message, time.thread_time() - start))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
