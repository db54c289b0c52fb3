"""Restyled images as files: a PNG each to look at, and with their texts for Hugging Face and WebDataset.

Pictures are the attachments of the run, byte by byte. A picture in which nothing was restyled is the image as it was,
and is left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from simsam_batch.errors import RunError
from simsam_batch.report.exports.dataset_card import restyled_card
from simsam_batch.report.exports.index_table import index_table
from simsam_batch.report.exports.leftovers import delete_leftovers
from simsam_batch.report.exports.safe_names import SafeNames
from simsam_batch.report.exports.web_dataset import NAME as SHARD
from simsam_batch.report.exports.web_dataset import Shards
from simsam_batch.results.restyled import NOT_RESTYLED, Restyled, restyled
from simsam_batch.results.sources import side_by_side
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.storage import Folder, redact
from simsam_batch.storage.uploading import streamed

FOLDER_IMAGES = 1_000
"""So many images of a folder for Hugging Face, which takes at most 10,000 files in one."""

_FOLDER = "data"
_COLUMNS = ["image_id", "uri", "status", "width", "height", "styles"]
_COLUMNS += ["arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]

T = TypeVar("T")
OnImage = Callable[[str, str], None]
Picture = tuple[Restyled, bytes]


def write_restyled_pictures(rows: StageRows, to: Folder, images: int, on_image: OnImage) -> None:
    """Write ``picture/a/b.png`` for the image ``a/b.jpg``, of several ``picture-1/a/b.png`` on, and ``index.csv``.

    Memory holds a few images.

    Args:
        rows: of a stage that restyles.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows or pictures cannot be read.
        StorageError: the storage did not answer.
    """
    # of all rows: the same files, however many are written
    names = SafeNames((row["image_id"] for _, row in rows.each(["image_id"])), ".png")

    def write(found: list[Picture], row: Mapping[str, Any], _: int) -> list[str]:
        files = [f"{picture.name}/{names.of(row['image_id'])}" for picture, _ in found]
        for name, picture in zip(files, found, strict=True):
            to.replace(name, picture[1])
        return files

    with index_table(to) as note:
        for number, image_id, outcome, files in _made(rows, images, write):
            for name in files or [""]:
                note(number, image_id, name)
            on_image(image_id, outcome)


def write_restyled_hugging_face(rows: StageRows, to: Folder, images: int, on_image: OnImage) -> None:
    """Write ``data/00000/000000012.png``, ``data/metadata.jsonl`` with the texts, and ``README.md``, the dataset card.

    The form of ``imagefolder``: a line of the metadata for each file. See `write_restyled_pictures`.
    """
    outcomes: Counter[str] = Counter()

    def write(found: list[Picture], row: Mapping[str, Any], number: int) -> list[bytes]:
        lines = []
        for picture, data in found:
            name = f"{number // FOLDER_IMAGES:05d}/{_key(number, picture)}.png"
            to.replace(f"{_FOLDER}/{name}", data)
            lines.append(_json({"file_name": name} | _facts(number, row, picture)) + b"\n")
        return lines

    pictures = 0
    with streamed(to, f"{_FOLDER}/metadata.jsonl") as file:
        for _, image_id, outcome, lines in _made(rows, images, write):
            for line in lines:
                file.write(line)
            pictures += len(lines)
            outcomes[outcome] += 1
            on_image(image_id, outcome)
    to.replace("README.md", restyled_card(rows, pictures, outcomes, f"{_FOLDER}/**"))


def write_restyled_webdataset(rows: StageRows, to: Folder, images: int, on_image: OnImage) -> None:
    """Write ``samples-000000.tar`` and so on, of each picture ``000000012.png`` and ``000000012.json``.

    See `write_restyled_pictures`.
    """

    def samples(found: list[Picture], row: Mapping[str, Any], number: int) -> list[list[tuple[str, bytes]]]:
        made = []
        for picture, data in found:
            key, facts = _key(number, picture), _json(_facts(number, row, picture))
            made.append([(f"{key}.png", data), (f"{key}.json", facts)])
        return made

    shards = Shards(to)
    with shards.stack:
        for _, image_id, outcome, made in _made(rows, images, samples):
            for sample in made:
                shards.add(sample)
            on_image(image_id, outcome)
    delete_leftovers(to, "", SHARD, shards.begun)


def _made(
    rows: StageRows, images: int, make: Callable[[list[Picture], Mapping[str, Any], int], list[T]]
) -> Iterator[tuple[int, str, str, list[T]]]:
    """Number, id and outcome of each row, and what is made of its pictures; several rows side by side."""

    def one(item: tuple[int, dict[str, Any]]) -> tuple[int, str, str, list[T]]:
        number, row = item
        if row["status"] != "ok":
            return number, row["image_id"], row["status"], []
        wanted = [picture for picture in restyled(row["styles"]) if picture.changed]
        if not wanted:
            return number, row["image_id"], NOT_RESTYLED, []
        held = rows.attachments(row)
        return (
            number,
            row["image_id"],
            "ok",
            make([(each, _file(rows, row, held, each.name)) for each in wanted], row, number),
        )

    return side_by_side(islice(rows.each(_COLUMNS), images), one)


def _file(rows: StageRows, row: Mapping[str, Any], held: Mapping[str, Any], name: str) -> bytes:
    file = held.get(name)
    if not isinstance(file, File):
        raise RunError(
            f"{rows.out.url}/{row['arrays_path']}: the {name} of {row['image_id']!r} is not there. To mend it: restore "
            "the file"
        )
    return file.data


def _key(number: int, picture: Restyled) -> str:
    """``000000012``, and of the second of several pictures ``000000012-2``."""
    return f"{number:09d}{picture.name.removeprefix('picture')}"


def _facts(number: int, row: Mapping[str, Any], picture: Restyled) -> dict[str, Any]:
    """What goes with a picture: which image it is of, its words, and all figures of its regions."""
    regions = [{name: _finite(value) for name, value in each.items() if name != "picture"} for each in picture.styles]
    return {
        **{name: row[name] for name in ("image_id", "width", "height")},
        "row": number,
        "uri": redact(row["uri"]),
        "picture": picture.name,
        "text": picture.text,
        "regions": regions,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
