"""The clusters of a whole set: one fit over the regions of all images, after ``regions`` and before ``semantic``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch.config import SemanticSettings, extra
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.regions import codebook
from simsam_batch.regions.moments import Moments
from simsam_batch.regions.sampling import RowSample
from simsam_batch.runs.ledger import Ledger, committed_rows
from simsam_batch.runs.records import from_json, to_json
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.stages.backbone import compute_device
from simsam_batch.storage import Folder, ObjectNotFound

RECORD = "clusters/clusters.json"
_BATCH_ROWS = 4096
_KEYS = ("settings", "regions_digest", "codebooks")


@dataclass(frozen=True, slots=True)
class FittedClusters:
    """What the fit came to.

    Attributes:
        files: names of the codebooks below OUT, one for each repeat, with the sha256 of each.
        facts: regions seen and sampled, inertia of each repeat.
    """

    files: tuple[tuple[str, str], ...]
    facts: dict[str, Any]


def fit_clusters(out: Folder, options: SemanticSettings, regions_digest: str) -> FittedClusters:
    """Fit the clusters of the regions committed in OUT, or take those that an earlier call has committed.

    Features are streamed shard by shard; a sample of at most ``options.sample`` is held. The fit is the same for any
    order, engine and number of workers: like them it computes with ``options.threads`` threads.
    ``clusters/clusters.json`` is the commit point.

    Args:
        out: the run's folder, with the stage ``regions`` complete.
        options: its settings.
        regions_digest: content digest of the regions.

    Raises:
        SettingsError: OUT has clusters fitted with other settings, or there are no regions to cluster.
        RunError: a committed file is not what it was.
    """
    settings = cluster_settings(options)
    try:
        return _committed(out, settings, regions_digest)
    except ObjectNotFound:
        with _exactly(options.threads):
            files, facts = _fit(out, options)
    record = {
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "regions_digest": regions_digest,
        "codebooks": files,
        "facts": facts,
    }
    out.create(RECORD, to_json(record, RECORD))
    # Another driver may have been first; its fit is the same.
    return _committed(out, settings, regions_digest)


def cluster_settings(options: SemanticSettings) -> dict[str, Any]:
    """The settings of the fit, and the seed."""
    fields = SemanticSettings.model_fields
    values = options.values_of("result")
    return {name: value for name, value in values.items() if extra(fields[name])["group"] == "Clusters"} | {
        "seed": options.seed
    }


def committed_settings(out: Folder) -> dict[str, Any]:
    """The settings of the fit that is committed.

    Raises:
        ObjectNotFound: there is none.
        RunError: its record is damaged.
    """
    return dict(from_json(out.read(RECORD), f"{out.url}/{RECORD}", *_KEYS)["settings"])


def load_codebook(out: Folder, name: str, sha256: str) -> codebook.Codebook:
    """One codebook.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        body = out.read(name)
    except ObjectNotFound as error:
        raise RunError(f"{out.url}/{name} is missing. To mend it: restore the file") from error
    if hashlib.sha256(body).hexdigest() != sha256:
        raise RunError(f"{out.url}/{name} is not what was committed. To mend it: restore the file")
    return codebook.Codebook.from_bytes(body)


def region_features(out: Folder) -> Iterator[tuple[list[bytes], NDArray[np.float32]]]:
    """The names (image and region) and features (n, C) of all committed regions, in the order of the plan."""
    for body in committed_rows(out, Ledger(out, "regions").manifests()):
        table = pq.ParquetFile(pa.BufferReader(body))
        for batch in table.iter_batches(_BATCH_ROWS, columns=["image_id", "regions"]):
            lists = batch.column("regions")
            owner = np.repeat(np.arange(len(lists)), lists.value_lengths().fill_null(0).to_numpy())
            regions = lists.flatten()
            if not len(regions):
                continue
            images = batch.column("image_id").to_pylist()
            numbers = regions.field("region").to_pylist()
            names = [f"{images[i]}#{number}".encode() for i, number in zip(owner.tolist(), numbers, strict=True)]
            flat = regions.field("feature").flatten().to_numpy()
            yield names, flat.reshape(len(names), -1)


@contextmanager
def _exactly(threads: int) -> Iterator[None]:
    """So many threads for torch and BLAS, whose last bits depend on it; what starts the driver sets various numbers."""
    import torch

    # The limit reaches only libraries that are loaded.
    import_module("sklearn.cluster")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def _fit(out: Folder, options: SemanticSettings) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import torch

    there = sum(manifest["statistics"]["regions"] for manifest in Ledger(out, "regions").manifests())
    if not there:
        raise SettingsError("no image has a region besides the background, so there is nothing to cluster")
    device = torch.device(compute_device(options.device))
    files, inertia = [], []
    try:
        sample = RowSample(options.seed % 2**64, min(options.sample, there))
        moments: Moments | None = None
        for names, features in region_features(out):
            sample.add(names, features)
            if options.pca_dim:
                here = Moments.of(features)
                moments = here if moments is None else moments.merge(here)
        _, rows = sample.rows()
        projection = moments.principal_components(options.pca_dim) if moments is not None else None
        for repeat in range(options.repeats):
            book = codebook.fit(
                rows,
                options.clusters,
                (options.seed + repeat) % 2**32,
                method=options.cluster_method,
                projection=projection,
                device=device,
            )
            body = book.to_bytes()
            sha256 = hashlib.sha256(body).hexdigest()
            name = f"clusters/codebook.{repeat}.{sha256[:16]}.npz"
            out.create(name, body)
            files.append({"name": name, "sha256": sha256})
            inertia.append(book.inertia)
    except ValueError as error:
        raise SettingsError(f"the regions cannot be clustered: {error}") from error
    return files, {"regions": there, "sampled": len(rows), "inertia": inertia}


def _committed(out: Folder, settings: dict[str, Any], regions_digest: str) -> FittedClusters:
    record = from_json(out.read(RECORD), f"{out.url}/{RECORD}", *_KEYS)
    differences = [
        f"{name}: {record['settings'].get(name)!r} there, {value!r} here"
        for name, value in settings.items()
        if record["settings"].get(name) != value
    ]
    if record["regions_digest"] != regions_digest:
        differences.append("the regions they were fitted on")
    if differences:
        raise SettingsError(
            "\n  ".join([f"{out.url} holds clusters fitted with other settings:", *differences])
            + "\nTo mend it: use the same settings, or another OUT"
        )
    files = tuple((str(file["name"]), str(file["sha256"])) for file in record["codebooks"])
    return FittedClusters(files, record["facts"])
