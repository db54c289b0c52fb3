"""Object masks, eigenvectors and scores from frozen vision transformers over whole image collections.

`open_run` reads a run; `segment` and its siblings, one for each command that computes, make one; see
``docs/python.md``. What else the command line does, the functions of `simsam_batch.operations` do under the same names.
Importing this package imports nothing else. Its types are in ``__init__.pyi``, which `make docs` writes.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

__all__ = [
    "Run",
    "__version__",
    "correspond",
    "correspond_diffusion",
    "extract_features",
    "hierarchy",
    "open_run",
    "probe",
    "probe_apply",
    "segment",
    "semantic",
    "stylize",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """What reads and makes runs is imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in ("Run", "open_run"):
        return getattr(import_module("simsam_batch.results.run"), name)
    return import_module("simsam_batch.calling").function(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
