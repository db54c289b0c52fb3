"""How settings are declared: kinds of fields, components that hold them, and what is made of components.

A component is a small class of settings that belong together, such as all of the affinity. The settings of a command
are a class of several components, so one declaration feeds the YAML file, the flags, ``--help`` and what a run records.
What identifies a stage's results is told by naming components, see `Settings.values_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from simsam_batch.errors import SettingsError
from simsam_batch.settings.words import explained

Kind = Literal["result", "input", "operation"]
"""``result`` settings change the numbers, so a run in OUT is continued only with equal ones; ``input`` settings say
what the run is about and are fixed with the plan; ``operation`` settings may differ each time."""

Idle = Mapping[str, Collection[Any]]
"""Values of other settings, by their names, beside which a setting has no effect: ``{"refine": ["none"]}``."""


def result(default: Any, description: str, *, idle: Idle | None = None, only: Idle | None = None, **more: Any) -> Any:
    """Declare a setting that changes the numbers.

    Args:
        default: its value where none is given.
        description: of ``--help``.
        idle: beside which values of others it has no effect.
        only: beside which alone it has one.
        more: ``unrecorded``, for a setting that is younger than runs which are to be gone on with: the value by which
            these did what they did. All else are pydantic's limits, such as ``ge=0``.
    """
    younger = {"unrecorded": more.pop("unrecorded")} if "unrecorded" in more else {}
    beside = {"only": {name: list(values) for name, values in (only or {}).items()}}
    return _declared("result", default, description, idle, beside | younger, **more)


def given(default: Any, description: str, **limits: Any) -> Any:
    """Declare a setting that says what the run is about; its kind is ``input``."""
    return _declared("input", default, description, None, **limits)


def operation(default: Any, description: str, *, idle: Idle | None = None, place: bool = False, **limits: Any) -> Any:
    """Declare a setting that says how the work is done.

    Args:
        default: its value where none is given.
        description: of ``--help``.
        idle: beside which values of others it has no effect.
        place: whether it is a path or URL, or several, of what a run is begun with, and needs whenever it goes on.
        limits: pydantic's.
    """
    return _declared("operation", default, description, idle, {"place": True} if place else None, **limits)


def _declared(
    kind: Kind,
    default: Any,
    description: str,
    idle: Idle | None,
    more: Mapping[str, Any] | None = None,
    **limits: Any,
) -> Any:
    about: dict[str, Any] = {"kind": kind, "idle": {name: list(values) for name, values in (idle or {}).items()}}
    return Field(default, description=description, json_schema_extra=about | dict(more or {}), **limits)


def split_at_commas(value: Any) -> tuple[str, ...]:
    """What stands in one flag or one line of a file, with commas between; each once, in the order asked for."""
    each = [value] if isinstance(value, str | int | float) else list(value)
    return tuple(dict.fromkeys(part.strip() for item in each for part in str(item).split(",")))


class Component(BaseModel):
    """Settings that belong together: ``class Affinity(Component, title="Affinity")``.

    The title is that of a section of ``--help``, and means nothing else; several components may share one. A component
    derived from another adds to it, or gives some of its settings other defaults: its settings are the other's too.

    Raises:
        SettingsError: a value that is not allowed; every one is named, with what was given and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            fields = type(self).model_fields
            raise SettingsError(*(explained(fields, problem) for problem in error.errors())) from None


class Settings(Component):
    """Settings made of components, the last base first: ``class TreeSettings(Tree, Superpixels, FeatureSettings)``.

    Such a class may give a setting another default or fewer values; a new one is declared in a component, or it would
    be part of nothing that identifies results.

    Attributes:
        presets: by name whole sets of values; a file's and the command line's own come on top.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse settings without a component."""
        super().__pydantic_init_subclass__(**kwargs)
        for name in cls.model_fields:
            if issubclass(cls.component_of(name), Settings):
                raise TypeError(f"{cls.__name__}.{name} is part of no component: declare it in one, and derive from it")

    @classmethod
    def component_of(cls, name: str) -> type[Component]:
        """The component that declares a setting: the first one, where others give it another default."""
        known = (base for base in reversed(cls.__mro__) if issubclass(base, Component))
        return next(component for component in known if name in component.model_fields)

    @classmethod
    def section_of(cls, name: str) -> str:
        """Title of a setting's section of ``--help``: its component's, but input and operation have one each."""
        kind = kind_of(cls.model_fields[name])
        return str(cls.component_of(name).model_config["title"]) if kind == "result" else kind.capitalize()

    @classmethod
    def fields_of(cls, kind: Kind, components: Collection[type[Component]] | None = None) -> list[str]:
        """Names of the settings of one kind, in order of declaration; of all components, or of some.

        Raises:
            TypeError: these settings lack one of the components.
        """
        for component in components or ():
            if not issubclass(cls, component):
                raise TypeError(f"{cls.__name__} has no component {component.__name__}")
        return [
            name
            for name, field in cls.model_fields.items()
            if kind_of(field) == kind and (components is None or issubclass(cls.component_of(name), tuple(components)))
        ]

    def values_of(self, kind: Kind, components: Collection[type[Component]] | None = None) -> dict[str, Any]:
        """The settings of one kind as plain JSON values, of all components or of some; in order of declaration."""
        names = self.fields_of(kind, components)
        dumped = self.model_dump(mode="json", include=set(names))
        return {name: dumped[name] for name in names}

    @classmethod
    def unrecorded(cls, components: Collection[type[Component]] | None = None) -> dict[str, Any]:
        """What runs did that began before there were some of the result settings, by these settings' names."""
        names = cls.fields_of("result", components)
        declared = {name: _about(cls.component_of(name).model_fields[name]) for name in names}
        return {name: about["unrecorded"] for name, about in declared.items() if "unrecorded" in about}

    @classmethod
    def places(cls) -> list[str]:
        """Names of the settings that say where something is that a run is begun with."""
        return [name for name, field in cls.model_fields.items() if "place" in _about(field)]

    def without_effect(self) -> list[str]:
        """Settings that do nothing beside the others, one sentence each.

        Values that are usual are left out: the default, and what a preset sets for its own method, of which some
        settings may then be changed.
        """
        sentences = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            usual = [field.default, type(self).component_of(name).model_fields[name].default]
            if value in [*usual, *(preset[name] for preset in self.presets.values() if name in preset)]:
                continue
            about = _about(field)
            for other in {**about["idle"], **about.get("only", {})}:
                beside = getattr(self, other, None)
                if beside in about["idle"].get(other, ()) or beside not in about.get("only", {}).get(other, [beside]):
                    mend = f"To mend it: leave it out, or choose another {other}"
                    sentences.append(f"{name}: it has no effect with {other} {beside!r}. {mend}")
        return sentences


def presets_of(model: type[Settings]) -> list[str]:
    """Names of the presets for the command whose settings these are."""
    return list(model.presets)


def kind_of(field: FieldInfo) -> Kind:
    """The kind that a setting was declared as."""
    return cast("Kind", _about(field)["kind"])


def _about(field: FieldInfo) -> dict[str, Any]:
    declared = field.json_schema_extra
    assert isinstance(declared, dict)  # noqa: S101  every field is declared as one of the kinds
    return declared
