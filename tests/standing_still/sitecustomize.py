"""Of every Python process that finds this folder on its path: it stands still before it commits one shard too many.

``SIMSAM_TEST_STANDS_STILL`` names the folder of the manifests and, after a colon, how many of them there may be.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

FOLDER, _, MOST = os.environ["SIMSAM_TEST_STANDS_STILL"].rpartition(":")


def stand_still(event: str, arguments: tuple[Any, ...]) -> None:
    # the link is what commits; what is linked has a hidden name
    if event != "os.link" or Path(arguments[1]).parent != Path(FOLDER):
        return
    if len(list(Path(FOLDER).glob("[!.]*.json"))) >= int(MOST):
        os.kill(os.getpid(), signal.SIGSTOP)
        # it may be another thread that takes the signal, and this one must not go on until it does
        time.sleep(600)


sys.addaudithook(stand_still)
