"""``--format webdataset``: tar files in which the members of a sample share the first part of their names."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Any

from simsam_batch.report.exports.label_pngs import write_label_names
from simsam_batch.report.exports.leftovers import delete_leftovers
from simsam_batch.report.exports.samples import UNREADABLE, annotation
from simsam_batch.results.label_maps import label_names, map_rows
from simsam_batch.results.sources import side_by_side, upright
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed

SHARD_IMAGES = 10_000
SHARD_BYTES = 1_000_000_000
"""A shard ends with the image that reaches one of these."""

NAME = "samples-{:06d}.tar"
"""Of a shard, by its number."""

Members = list[tuple[str, bytes]]
"""Of a sample: their names and bytes."""


def write_webdataset(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``samples-000000.tar`` and so on, and ``labels.txt`` but for trees; memory holds a few images.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    names = label_names(rows)
    write_label_names(to, names)

    def sample(item: tuple[int, dict[str, Any]]) -> tuple[str, str, Members]:
        number, row = item
        if row["status"] != "ok":
            return row["image_id"], row["status"], []
        image = upright(row, rows.settings_of_reading)
        if image is None:
            return row["image_id"], UNREADABLE, []
        found = annotation(number, row, rows, names)
        facts = json.dumps(found.facts | {"as_read": image.as_read}, allow_nan=False).encode()
        members = {image.suffix: image.data, "mask.png": found.mask, "json": facts}
        return row["image_id"], "ok", [(f"{number:09d}.{suffix}", data) for suffix, data in members.items()]

    shards = Shards(to)
    with shards.stack:
        for image_id, outcome, members in side_by_side(islice(map_rows(rows), images), sample):
            if members:
                shards.add(members)
            on_image(image_id, outcome)
    delete_leftovers(to, "", NAME, shards.begun)


class Shards:
    """The tar files, one after the other.

    Attributes:
        stack: closes what is open; a block around all samples.
        begun: how many there are.

    Args:
        to: where they go.
    """

    def __init__(self, to: Folder) -> None:
        self.stack = ExitStack()
        self.begun = 0
        self._to = to
        self._samples = self._bytes = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, members: Members) -> None:
        """Put a sample into the shard under way."""
        if self._tar is None:
            file = self.stack.enter_context(streamed(self._to, NAME.format(self.begun)))
            tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
            self._tar = self.stack.enter_context(tar)
            self.begun += 1
        for name, data in members:
            # no time, owner or mode but the default: the same samples give the same bytes
            header = tarfile.TarInfo(name)
            header.size = len(data)
            self._tar.addfile(header, io.BytesIO(data))
            self._bytes += len(data)
        self._samples += 1
        if self._samples == SHARD_IMAGES or self._bytes >= SHARD_BYTES:
            self.stack.pop_all().close()
            self._tar, self._samples, self._bytes = None, 0, 0
