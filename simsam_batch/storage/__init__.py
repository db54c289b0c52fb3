"""Local disk and object storage by URL: list, read, write atomically, create conditionally. Nothing else opens a URL.

Object storage goes through fsspec. Directory listings are never cached, one filesystem object is shared by all threads
of a process, and a forked or spawned child makes its own. What can pass by itself is tried again
(`simsam_batch.storage.retrying`).
"""

from simsam_batch.storage.ahead import read_ahead
from simsam_batch.storage.archives import is_archive
from simsam_batch.storage.failures import ObjectNotFound, ObjectRefused, UnusableMember
from simsam_batch.storage.filesystems import ObjectInfo
from simsam_batch.storage.folder import Folder
from simsam_batch.storage.reading import entries, is_given, object_info, read_url, walk
from simsam_batch.storage.urls import absolute_url, carries_secret, is_same_place, local_path, redact

__all__ = [
    "Folder",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectRefused",
    "UnusableMember",
    "absolute_url",
    "carries_secret",
    "entries",
    "is_archive",
    "is_given",
    "is_same_place",
    "local_path",
    "object_info",
    "read_ahead",
    "read_url",
    "redact",
    "walk",
]
