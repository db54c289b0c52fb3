"""The clusters of a whole set: one fit over the regions of all images, or over the nodes of all trees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.regions import codebook
from simsam_batch.regions.moments import Moments
from simsam_batch.regions.sampling import RowSample
from simsam_batch.runs.committed import committed_shards
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.records import from_json, to_json
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.settings import ClusterSettings, extra
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.workers.models import compute_device

_BATCH_ROWS = 4096
_KEYS = ("settings", "features_digest", "codebooks")

Features = Iterator[tuple[list[bytes], NDArray[np.float32]]]
"""Names, unlike each other, and features (n, C) of what is clustered, in the order of the plan."""


@dataclass(frozen=True, slots=True)
class Clustered:
    """What is clustered over a set.

    Attributes:
        stage: whose it is.
        names: of the things, for people and as the key of their number in the stage's statistics.
        features: reads them from a run's folder.
        folder: below OUT, where the codebooks and their record go.
    """

    stage: str
    names: str
    features: Callable[[Folder], Features]
    folder: str

    @property
    def record(self) -> str:
        """Name of the record, whose creation commits the fit."""
        return f"{self.folder}/clusters.json"


@dataclass(frozen=True, slots=True)
class FittedClusters:
    """What the fit came to.

    Attributes:
        files: names of the codebooks below OUT, one for each repeat, with the sha256 of each.
        facts: how many there were and how many were sampled, inertia of each repeat.
    """

    files: tuple[tuple[str, str], ...]
    facts: dict[str, Any]


def fit_clusters(
    out: Folder, clustered: Clustered, options: ClusterSettings, digest: str, repeats: int = 1
) -> FittedClusters:
    """Fit the clusters of what is committed in OUT, or take those that an earlier call has committed.

    Features are streamed shard by shard; a sample of at most ``options.sample`` is held. The fit is the same for any
    order, engine and number of workers: like them it computes with ``options.threads`` threads.

    Args:
        out: the run's folder, with the stage complete.
        clustered: what of.
        options: the settings.
        digest: content digest of that stage.
        repeats: fits with different seeds.

    Raises:
        SettingsError: OUT has clusters fitted with other settings, or there is nothing to cluster.
        RunError: a committed file is not what it was.
    """
    settings, where = cluster_settings(options), clustered.record
    try:
        return _committed(out, clustered, settings, digest)
    except ObjectNotFound:
        with _exactly(options.threads):
            files, facts = _fit(out, clustered, options, repeats)
    record = {
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "features_digest": digest,
        "codebooks": files,
        "facts": facts,
    }
    out.create(where, to_json(record, where))
    # Another driver may have been first; its fit is the same.
    return _committed(out, clustered, settings, digest)


def cluster_settings(options: ClusterSettings) -> dict[str, Any]:
    """The settings of the fit, and the seed."""
    fields = type(options).model_fields
    values = options.values_of("result")
    return {name: value for name, value in values.items() if extra(fields[name])["group"] == "Clusters"} | {
        "seed": options.seed
    }


def committed_settings(out: Folder, clustered: Clustered) -> dict[str, Any]:
    """The settings of the fit that is committed.

    Raises:
        ObjectNotFound: there is none.
        RunError: its record is damaged.
    """
    where = clustered.record
    return dict(from_json(out.read(where), f"{out.url}/{where}", *_KEYS)["settings"])


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


def _region_features(out: Folder) -> Features:
    """Of all committed regions, named by image and region."""
    for shard in committed_shards(out, Ledger(out, "regions").manifests()):
        for batch in shard.rows(["image_id", "regions"]).to_batches(_BATCH_ROWS):
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


def _node_features(out: Folder) -> Features:
    """Of the nodes of all committed trees, named by image and node; a node that holds no patch has none."""
    for shard in committed_shards(out, Ledger(out, "hierarchy").manifests()):
        images = shard.rows(["image_id"])["image_id"].to_pylist()
        for image_id, arrays in zip(images, shard.attachments(), strict=True):
            # An image that has failed has none.
            if not arrays:
                continue
            prototypes = np.asarray(arrays["prototypes"], np.float32)
            held = np.flatnonzero(prototypes.any(axis=1))
            if len(held):
                yield [f"{image_id}#{node}".encode() for node in held.tolist()], prototypes[held]


REGIONS = Clustered("regions", "regions", _region_features, "clusters")
"""The regions of all images, which ``semantic`` labels."""

NODES = Clustered("hierarchy", "nodes", _node_features, "node-clusters")
"""The nodes of all trees, which ``labels`` labels."""


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


def _fit(
    out: Folder, clustered: Clustered, options: ClusterSettings, repeats: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import torch

    names = clustered.names
    there = sum(manifest["statistics"][names] for manifest in Ledger(out, clustered.stage).manifests())
    if not there:
        raise SettingsError(f"no image has any {names}, so there is nothing to cluster")
    device = torch.device(compute_device(options.device))
    files, inertia = [], []
    try:
        sample = RowSample(options.seed % 2**64, min(options.sample, there))
        moments: Moments | None = None
        for keys, features in clustered.features(out):
            sample.add(keys, features)
            if options.pca_dim:
                here = Moments.of(features)
                moments = here if moments is None else moments.merge(here)
        _, rows = sample.rows()
        projection = moments.principal_components(options.pca_dim) if moments is not None else None
        for repeat in range(repeats):
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
            name = f"{clustered.folder}/codebook.{repeat}.{sha256[:16]}.npz"
            out.create(name, body)
            files.append({"name": name, "sha256": sha256})
            inertia.append(book.inertia)
    except ValueError as error:
        raise SettingsError(f"the {names} cannot be clustered: {error}") from error
    return files, {names: there, "sampled": len(rows), "inertia": inertia}


def _committed(out: Folder, clustered: Clustered, settings: dict[str, Any], digest: str) -> FittedClusters:
    where = clustered.record
    record = from_json(out.read(where), f"{out.url}/{where}", *_KEYS)
    differences = [
        f"{name}: {record['settings'].get(name)!r} there, {value!r} here"
        for name, value in settings.items()
        if record["settings"].get(name) != value
    ]
    if record["features_digest"] != digest:
        differences.append(f"the {clustered.names} they were fitted on")
    if differences:
        raise SettingsError(
            "\n  ".join([f"{out.url} holds clusters fitted with other settings:", *differences])
            + "\nTo mend it: use the same settings, or another OUT"
        )
    files = tuple((str(file["name"]), str(file["sha256"])) for file in record["codebooks"])
    return FittedClusters(files, record["facts"])
