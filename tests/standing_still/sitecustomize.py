"""Of every Python process that finds this folder on its path: it stands still before it commits one shard too many.

``SIMSAM_TEST_STANDS_STILL`` names the folder of the manifests, how many of them there may be, and the file that says
that a process stands still; it goes on when there is another whose name has ``.go`` after that.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER, MOST, HELD = os.environ["SIMSAM_TEST_STANDS_STILL"].rsplit(":", 2)
GO = Path(f"{HELD}.go")


def stand_still(event: str, arguments: tuple[Any, ...]) -> None:
    # the link is what commits; what is linked has a hidden name
    if event != "os.link" or Path(arguments[1]).parent != Path(FOLDER) or GO.exists():
        return
    if len(list(Path(FOLDER).glob("[!.]*.json"))) >= int(MOST):
        Path(HELD).touch()
        while not GO.exists():
            time.sleep(0.01)


sys.addaudithook(stand_still)
