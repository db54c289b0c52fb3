"""What all stages of commands have: settings by component, columns, and where they are recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, kept_columns
from simsam_batch.runs.schema import Fold, Needs, Worker, row_fields
from simsam_batch.settings import Component, RunSettings

S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True)
class CommandStage(ABC, Generic[S]):
    """A stage of a command: all that a worker of it has to know, wherever it is.

    Class attributes say what a stage is, whatever run it is of: ``name``; ``components`` of the settings that identify
    it; ``reads``, the stages whose results it rests on; ``unit`` of its plan; ``needs``; ``fields``, its columns beyond
    those of every row; and whether the plan's further columns follow them (``keeps_columns``).

    Attributes:
        options: all settings of the command.
        resolved: what settings, models and truth came down to, as plain JSON values.
        plan: what it is about; None where no columns are kept.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: S
    resolved: dict[str, Any]
    plan: Plan | None = None
    recorded: dict[str, Any] | None = None

    name: ClassVar[str]
    components: ClassVar[Sequence[type[Component]]]
    fields: ClassVar[Sequence[pa.Field]]
    reads: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "image_id"
    needs: ClassVar[Needs] = Needs()
    keeps_columns: ClassVar[bool] = False

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings that identify it, as plain JSON values."""
        if self.recorded is not None:
            return self.recorded
        return self.options.values_of("result", self.components)

    @property
    def unrecorded(self) -> dict[str, Any]:
        """What a run did whose record names none of its youngest settings."""
        return self.options.unrecorded(self.components)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        kept = kept_columns(self.plan) if self.keeps_columns and self.plan is not None else []
        return pa.schema([*row_fields(self.unit), *self.own_fields(), *kept])

    def own_fields(self) -> Sequence[pa.Field]:
        """Those of ``fields`` that the rows have by these settings: all, but where a stage says otherwise."""
        return self.fields

    @property
    @abstractmethod
    def fold(self) -> Fold[Any]:
        """Merges the statistics of shards."""

    @abstractmethod
    def make_worker(self, beat: Callable[[], None]) -> Worker:
        """Load what is needed and be ready for shards."""

    def state_of_failed(self, row: Mapping[str, Any]) -> Any:  # noqa: ARG002  for stages that count it
        """Nothing: a record that failed is in no score."""
        return None


def check_kept_columns(names: Sequence[str], own: Sequence[pa.Field]) -> None:
    """Refuse kept columns that have the name of one of a stage's own.

    Raises:
        SettingsError: naming them.
    """
    clashing = sorted(set(names) & {field.name for field in own})
    if clashing:
        msg = f"keep_columns: {', '.join(clashing)}: the results have columns of that name; rename them in the input"
        raise SettingsError(msg)
