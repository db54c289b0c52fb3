"""A child process that decodes damaged images in a bounded address space and counts what came of them.

    python decode_many.py SEED FIRST COUNT REPORT

It prints nothing; REPORT holds the counts in the end, and before that the number of the case at work.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))
from mutated_images import damaged, small_files

from simsam_batch.errors import ImageError
from simsam_batch.formats import HEIC, kind_of
from simsam_batch.images import (
    ImageLimits,
    TruthError,
    decode,
    image_size,
    load_label_map,
    load_labels,
    load_mask,
    load_truth,
)

LIMITS = ImageLimits(max_pixels=2_000_000, decode_seconds=5.0)
ADDRESS_SPACE = 400 << 20
CASE_SECONDS = 20


def bound_memory(extra: int = ADDRESS_SPACE) -> None:
    """Let this process map so many bytes more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def outcome(data: bytes, file: Path) -> str:
    """What the loaders make of a file, by kind; anything but a result or an error of the project comes through."""
    try:
        decoded = decode(data, LIMITS, "srgb")
        assert decoded.rgb.shape == (*decoded.size, 3)
        # damaged HEIC may decode to another size than its header states
        assert image_size(data, LIMITS) == decoded.rgb.shape[:2] or kind_of(data) is HEIC
        found = "decoded"
    except ImageError as error:
        found = error.kind
    with suppress(ImageError):
        scaled = decode(data, LIMITS, enough=lambda _: (3, 3))
        assert scaled.rgb.shape == (scaled.picture.height, scaled.picture.width, 3)
        assert scaled.reduction in (1, 2, 4, 8)
    file.write_bytes(data)
    for load in (load_mask, load_label_map):
        with suppress(ImageError):
            load(str(file), LIMITS)
    with suppress(TruthError):
        load_truth(str(file), LIMITS, (20, 28))
    with suppress(TruthError):
        load_labels(str(file), LIMITS, (20, 28), classes=100, ignore=255)
    return found


def main() -> None:
    seed, first, count = map(int, sys.argv[1:4])
    report = Path(sys.argv[4])
    files = list(small_files().values())
    # Pillow warns of damaged metadata
    warnings.simplefilter("ignore")
    decode(files[0], LIMITS)
    bound_memory()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for case in range(first, first + count):
        report.write_text(str(case))
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        start = time.thread_time()
        outcomes[outcome(damaged(files, Random(f"{seed} {case}")), report.with_suffix(".image"))] += 1
        slowest = max(slowest, time.thread_time() - start)
    faulthandler.cancel_dump_traceback_later()
    report.write_text(json.dumps({"outcomes": outcomes, "slowest_s": slowest}))


if __name__ == "__main__":
    main()
