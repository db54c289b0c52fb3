"""Where images were read, as exports say it."""

from __future__ import annotations

from simsam_batch.errors import SettingsError
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import absolute_url, redact


def told_uri(uri: str, root: str | None) -> str:
    """An image's URI without credentials; below a root relative to it, see `check_root`."""
    return redact(uri) if root is None else absolute_url(uri)[len(_with_slash(root)) :]


def check_root(root: str, rows: StageRows) -> None:
    """Refuse a root that not all images lie below.

    Args:
        root: a path or any fsspec URL.
        rows: of the images.

    Raises:
        SettingsError: names one that does not.
    """
    above = _with_slash(root)
    for _, row in rows.each(["image_id", "uri"]):
        if not absolute_url(row["uri"]).startswith(above):
            raise SettingsError(
                f"relative_uris: {row['image_id']!r} was read at {redact(row['uri'])}, which is not below "
                f"{redact(above)}. To mend it: name a folder that all images lie below, as their URIs have it"
            )


def _with_slash(root: str) -> str:
    return f"{absolute_url(root).rstrip('/')}/"
