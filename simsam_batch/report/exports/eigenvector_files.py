"""``--format pth``: eigenvectors as the files that Deep Spectral Methods writes for each image."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simsam_batch.errors import SettingsError
from simsam_batch.report.exports.index_table import write_each
from simsam_batch.results.photographs import working_size
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

_COLUMNS = ["image_id", "status", "width", "height", "patch", "eigenvalues", "arrays_path", "arrays_member"]


def write_eigenvectors(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``eigs/a/b.pth`` for the image ``a/b.jpg``, and ``index.csv``.

    Args:
        rows: of the stage ``segment``.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        SettingsError: the run stored no eigenvectors, or torch is not installed.
        RunError: rows or arrays cannot be read.
        StorageError: the storage did not answer.
    """
    if rows.settings["eigenvectors"] == "none":
        raise SettingsError(
            f"format: pth needs eigenvectors, and {rows.out.url} was computed with --eigenvectors none. To mend it: "
            "compute the images again in another OUT, with --eigenvectors fp16"
        )
    try:
        import torch  # noqa: F401  before anything is written
    except ImportError as error:
        raise SettingsError(
            "format: pth is torch's own, and torch is not installed. To mend it: pip install torch, or take hf"
        ) from error

    def content(row: Mapping[str, Any], name: str) -> bytes:
        return _file(rows, row, name.removesuffix(".pth"))

    write_each(rows, rows.each(_COLUMNS), to, images, on_image, ("eigs", ".pth"), content)


def _file(rows: StageRows, row: Mapping[str, Any], stem: str) -> bytes:
    """One image's dictionary; beside the two keys of ``eigs/`` those of ``features/`` that tell what its grid is."""
    import torch

    height, width = working_size(row, rows.settings)
    vectors = rows.arrays(row)["eigenvectors"].astype(np.float32)
    target = io.BytesIO()
    torch.save(
        {
            "eigenvalues": torch.tensor(row["eigenvalues"], dtype=torch.float32),
            "eigenvectors": torch.from_numpy(vectors),
            "id": stem,
            "file": row["image_id"],
            "patch_size": row["patch"],
            "shape": (1, 3, height, width),
        },
        target,
    )
    return target.getvalue()
