"""The engine that is asked for, on the devices there are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from simsam_batch.errors import SettingsError

if TYPE_CHECKING:
    from simsam_batch.engines.inline import InlineEngine
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine

Name = Literal["auto", "local", "ray", "torchrun", "inline"]


def choose_engine(
    name: Name,
    *,
    workers: int = 0,
    threads: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    ray_address: str | None = None,
    recycle_after: int = 0,
    grace_seconds: float = 20.0,
    workers_per_gpu: int = 1,
) -> InlineEngine | LocalEngine | RayEngine | TorchrunEngine:
    """Make an engine; nothing is started or imported for another one.

    Args:
        name: ``auto`` is ``torchrun`` in a process that torchrun started, else ``local``.
        workers: 0 for as many as there is room for.
        threads: of BLAS and OpenMP in each.
        device: where they compute; ``auto``: on GPUs where there are some.
        ray_address: of a cluster to join.
        recycle_after: shards after which a worker is replaced by a fresh one; 0: never.
        grace_seconds: how long a rank of torchrun that was asked to end waits to be ended.
        workers_per_gpu: workers that share a GPU.

    Raises:
        SettingsError: a device or engine that this machine or installation has not, or what the engine cannot do.
    """
    if name == "auto":
        name = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "local"
    if name == "ray":
        from simsam_batch.engines.ray import RayEngine

        gpus_of_cluster = None if device == "auto" else device == "cuda"
        shared = {"recycle_after": recycle_after, "workers_per_gpu": workers_per_gpu}
        return RayEngine(workers, threads, gpus_of_cluster, ray_address, **shared)
    from simsam_batch.engines.devices import visible_gpus

    gpus = device != "cpu" and bool(visible_gpus())
    if device == "cuda" and not gpus:
        raise SettingsError("device: 'cuda' was asked for and this machine shows no GPU; use --device cpu or auto")
    if name == "local":
        from simsam_batch.engines.local import LocalEngine

        return LocalEngine(workers, threads, gpus=gpus, recycle_after=recycle_after, workers_per_gpu=workers_per_gpu)
    if recycle_after:
        those = "ranks of torchrun cannot be replaced one by one" if name == "torchrun" else "there is no other process"
        raise SettingsError(f"recycle_after: {those}; use another --engine, or leave it 0")
    if name == "torchrun":
        from simsam_batch.engines.torchrun import TorchrunEngine

        return TorchrunEngine(threads, gpus=gpus, grace_s=grace_seconds, workers_per_gpu=workers_per_gpu)
    if workers > 1:
        raise SettingsError(f"workers: the engine inline has one worker, this process, and not {workers}; leave it 0")
    from simsam_batch.engines.inline import InlineEngine

    return InlineEngine(threads)
