"""Object masks, eigenvectors and scores from frozen vision transformers over whole image collections.

`open_run` reads a run; see ``docs/python.md``. What the command line does, the functions of
`simsam_batch.operations` do under the same names. Importing this package imports nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simsam_batch.results.run import Run, open_run

__version__ = "0.2.0"

__all__ = ["Run", "__version__", "open_run"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """What reads runs is imported when it is first asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from simsam_batch.results import run

        return getattr(run, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
