"""What a worker process may use: so many threads, and one GPU. Set before it imports NumPy or torch."""

from __future__ import annotations

import os

from simsam_batch.errors import SettingsError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

OPENBLAS_WAIT = {"OPENBLAS_THREAD_TIMEOUT": "6"}
"""How long (2^6 cycles, not 2^26) the threads of NumPy's and SciPy's OpenBLAS keep a core busy after a product.

Torch's own threads wait for that core otherwise: with two threads on two cores eigenvectors took 8 times as long.
"""


def thread_environment(threads: int) -> dict[str, str]:
    """Environment under which BLAS and OpenMP start with exactly ``threads`` threads (thread counts change bits).

    Raises:
        SettingsError: if ``threads`` is below 1.
    """
    if threads < 1:
        raise SettingsError(f"threads is {threads}; a worker needs at least 1")
    return dict.fromkeys(_THREAD_VARIABLES, str(threads)) | OPENBLAS_WAIT


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` has them; creates no CUDA context."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpu_for_each(workers: int, on_each: int = 1) -> list[str]:
    """One GPU name for each of ``workers`` processes of this machine; 0 for as many as there is room for.

    Args:
        workers: processes.
        on_each: how many of them may share a GPU, each with its own model in its memory; all GPUs have one before any
            has a second.

    Raises:
        SettingsError: there is no room for so many on the GPUs that are visible.
    """
    gpus = visible_gpus() * on_each
    if workers > len(gpus):
        need = "a GPU each" if on_each == 1 else f"a GPU for every {on_each}"
        raise SettingsError(
            f"{workers} worker(s) need {need}, but {len(gpus) // on_each} are visible here (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); ask for fewer workers, for more of them on each "
            "with --workers-per-gpu, or run without GPUs"
        )
    return gpus[: workers or len(gpus)]
