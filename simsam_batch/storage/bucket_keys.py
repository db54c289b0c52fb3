"""S3 by fsspec, but with every letter of a key a part of its name."""

from __future__ import annotations

from typing import Any

from s3fs import S3FileSystem

_VERSION = "?versionId="
# no key of S3 has a zero byte in it
_HIDDEN = "?\0versionId="


class ExactKeys(S3FileSystem):  # type: ignore[misc]
    """Takes ``?versionId=`` for what it is in a key, where s3fs cuts the key off there."""

    def split_path(self, path: str) -> tuple[str, str, str | None]:
        """Bucket and key of a path."""
        bucket, key, _ = super().split_path(path.replace(_VERSION, _HIDDEN))
        return bucket, key.replace(_HIDDEN, _VERSION), None

    async def _cat_file(self, path: str, **options: Any) -> bytes:
        """The content of an object; where no key is this path, of the version that it names."""
        try:
            return bytes(await super()._cat_file(path, **options))
        except FileNotFoundError:
            plain, separator, version = path.rpartition(_VERSION)
            if not separator:
                raise
            return bytes(await super()._cat_file(plain, version_id=version, **options))
