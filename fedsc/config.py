"""The options of one run: groups inside, one flat list of names at the border."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsc.errors import ConfigError
from fedsc.options import (
    AnalysisOptions,
    DataOptions,
    FederationOptions,
    MethodOptions,
    RunOptions,
    SplitOptions,
    TrainingOptions,
    kebab,
)

METHODS_OWN: dict[str, dict[str, Any]] = {"fedpca": {"n-genes": 2000}}
"""What methods have in the place of an option that is not set (0): ``fedpca`` is scanpy's workflow,
federated, and has a practitioner's number of genes."""


WHERE = ("output", "run-name", "resume")
"""Options that say where a run is, not what it does."""

OF_SIMULATION = (
    *("dataset", "partition", "labs", "subtypes-per-lab", "cover", "beta"),
    "partition-key",
)
"""Options that make the labs of a simulation: real labs bring their own files."""


class Config(BaseModel):
    """The options of one run; frozen, validated on construction.

    Attributes are groups of options (:mod:`fedsc.options`). :meth:`of` and :meth:`from_mapping`
    take the flat names a person types, and put the method's own (:data:`METHODS_OWN`) in the place
    of what is not set: a config has the values a run runs with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataOptions = Field(default_factory=DataOptions)
    split: SplitOptions = Field(default_factory=SplitOptions)
    method: MethodOptions = Field(default_factory=MethodOptions)
    training: TrainingOptions = Field(default_factory=TrainingOptions)
    federation: FederationOptions = Field(default_factory=FederationOptions)
    analysis: AnalysisOptions = Field(default_factory=AnalysisOptions)
    run: RunOptions = Field(default_factory=RunOptions)

    @classmethod
    def of(cls, **options: Any) -> "Config":
        """Validate options given by keyword: ``Config.of(rounds=3, n_genes=2000)``."""
        return cls.from_mapping(options)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> "Config":
        """Validate options as a person typed them.

        Parameters
        ----------
        options
            Flat kebab-case (or snake_case) names to values.

        Raises
        ------
        ConfigError
            Naming every bad key, its value and what is allowed.
        """
        grouped: dict[str, dict[str, Any]] = {}
        unknown = []
        for given, value in options.items():
            name = kebab(given)
            if name in _GROUP_OF:
                grouped.setdefault(_GROUP_OF[name], {})[name] = value
            else:
                unknown.append(_unknown(name))
        method = str(grouped.get("method", {}).get("method"))
        for name, own in METHODS_OWN.get(method, {}).items():
            group = grouped.setdefault(_GROUP_OF[name], {})
            group[name] = group.get(name) or own
        try:
            config = cls.model_validate(grouped)
        except ValidationError as error:
            raise ConfigError("; ".join([*unknown, *_explain(error)])) from None
        if unknown:
            raise ConfigError("; ".join(unknown))
        return config

    def replace(self, **options: Any) -> "Config":
        """Give the same values but for some, validated anew.

        All of them count as set: another ``method`` does not bring its own (:data:`METHODS_OWN`).
        """
        changed = {kebab(name): value for name, value in options.items()}
        return self.from_mapping(self.to_mapping() | changed)

    def to_mapping(self) -> dict[str, bool | int | float | str]:
        """Give all options under their flat kebab-case names, defaults included."""
        groups = self.model_dump(by_alias=True).values()
        return {name: value for group in groups for name, value in group.items()}

    def fixed(self) -> dict[str, bool | int | float | str]:
        """Give the options that a resumed run may not change: what was done depends on them.

        Under a schedule, the learning rate of every round depends on how many there are.
        """
        kept = {name: v for name, v in self.to_mapping().items() if name not in _CHANGEABLE}
        if self.training.schedule != "constant":
            kept["rounds"] = self.training.rounds
        return kept

    def fingerprint(self) -> str:
        """Hash the options that decide a run's model (:meth:`fixed`)."""
        decisive = self.fixed()
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def groups() -> dict[str, type[BaseModel]]:
    """Give the groups of options, by their names in :class:`Config`."""
    return {name: field.annotation for name, field in Config.model_fields.items()}  # type: ignore[misc]


_GROUP_OF = {
    str(field.alias): group
    for group, options in groups().items()
    for field in options.model_fields.values()
}
"""Group of every option, by its flat name."""


TEXTS = {
    str(field.alias)
    for options in groups().values()
    for field in options.model_fields.values()
    if field.annotation is str
}
"""Options whose value is text, by their flat names."""

_CHANGEABLE = {
    str(field.alias)
    for options in groups().values()
    for field in options.model_fields.values()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["changeable"]
}

_GONE = {
    "min-labs": "is two options now: wait-for-labs, the labs to wait for at the start, and "
    "min-updates, the valid updates a round needs",
}


def _unknown(name: str) -> str:
    if name in _GONE:
        return f"option {name} {_GONE[name]}"
    close = difflib.get_close_matches(name, list(_GROUP_OF), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(_GROUP_OF)}"
    return f"unknown option '{name}': {hint}"


def _explain(error: ValidationError) -> list[str]:
    """Turn pydantic's findings into one line per option."""
    lines = []
    for finding in error.errors():
        message = finding["msg"].removeprefix("Input ").removeprefix("Value error, ")
        if len(finding["loc"]) > 1:
            message = f"option {finding['loc'][1]} = {finding['input']!r}: {message}"
        lines.append(message)
    return lines
