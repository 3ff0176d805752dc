"""A suite: a TOML grid of methods × sets × options, expanded into cells.

The papers' tables are files in ``suites/``; ``fedsc bench my.toml`` runs one's own.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedsc.errors import ConfigError
from simulations.bench.cell import Cell, Scalar
from simulations.bench.check import check, require_method

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Options = dict[str, Scalar]
Figure = Literal["bars", "dots", "sweep", "splits", "maps", "pulls", "attention"]

_SPLIT = {"subtypes-per-lab", "cover", "beta", "min-cells", "partition-key"}
_LABEL_MADE = ("subtypes", "dirichlet")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Line(_Strict):
    """A line of the table: a method with its options.

    Attributes
    ----------
    name
        As the table shows it.
    method
        As ``fedsc methods`` or ``fedsc fit`` know it.
    options
        Of the method; a federated one also gets the suite's ``federated`` options.
    clusters
        Which clusters of a federated run are scored.
    harmony
        Whether batches are brought together first; only on sets that have some.
    reading_of
        Line of the same published row, which this one reads in another way; ``""`` = none.
    """

    name: str
    method: str
    options: Options = {}
    clusters: Literal["k-means", "graph"] = "k-means"
    harmony: bool = False
    reading_of: str = ""

    @field_validator("method")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            require_method(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def federated(self) -> bool:
        """Whether it trains across labs."""
        return not Cell(method=self.method, dataset="", seed=0, options={}).centralised


class Data(_Strict):
    """A set.

    Attributes
    ----------
    name
        Known set or path of a file.
    label_key
        Column with cell types; ``""`` = the set's own.
    batches
        Column with batches, which are the labs of federated lines; ``""`` = labs are made.
    federated
        Options its federated lines need (``subtypes-per-lab``, ``partition``).
    """

    name: str
    label_key: str = ""
    batches: str = ""
    federated: Options = {}

    @property
    def split(self) -> Options:
        """Options of its federated lines."""
        column = {"partition": "column", "partition-key": self.batches} if self.batches else {}
        return {**column, **self.federated}


class Published(_Strict):
    """What a paper printed for a line on a set: ARI, NMI, silhouette in %."""

    line: str
    dataset: str
    scores: tuple[float, float, float]
    at: Options = {}


class Suite(_Strict):
    """What a suite's TOML file says.

    Attributes
    ----------
    title, about
        Heading and introduction of its page.
    reference
        Name of the line that the others are compared with, seed by seed.
    controls
        Lines run on an IID split as well, where the split is made from labels.
    federated
        Options of every federated line.
    datasets, lines, published
        What is run, and what the papers have.
    grid
        Values of options to go through with every line: the union of the tables' products.
    seeds
        How many, from 0.
    figures
        What is drawn.
    mixing
        Whether the table shows how batches mix and types stay apart, for the silhouette.
    """

    title: str
    about: str
    reference: str
    controls: tuple[str, ...] = ()
    federated: Options = {}
    datasets: tuple[Data, ...]
    lines: tuple[Line, ...]
    grid: tuple[dict[str, tuple[Scalar, ...]], ...] = ({},)
    published: tuple[Published, ...] = ()
    seeds: Annotated[int, Field(ge=1)] = 5
    figures: tuple[Figure, ...] = ("bars",)
    mixing: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        names = {line.name for line in self.lines}
        if len(names) < len(self.lines):
            raise ValueError("two lines have the same name")
        named = [self.reference, *self.controls, *(row.line for row in self.published)]
        named += [line.reading_of for line in self.lines if line.reading_of]
        for name in named:
            if name not in names:
                raise ValueError(f"'{name}' is not the name of a line")
        uncontrolled = [
            data.name
            for data in self.datasets
            if any(line.federated for line in self.lines)
            and self.partition(data) in _LABEL_MADE
            and not self.controls
        ]
        if uncontrolled:
            raise ValueError(
                f"the labs of {', '.join(uncontrolled)} are made from labels: name the lines "
                "that are also run on an IID split in 'controls'"
            )
        return self

    def partition(self, data: Data) -> str:
        """Give the partition the set's federated lines use."""
        return str({"partition": "subtypes", **self.federated, **data.split}["partition"])

    def printed(self, place: "Place") -> tuple[float, ...]:
        """Give what a paper printed for a place, ARI, NMI, silhouette in %; ``()`` for nothing."""
        at, read = dict(place.at), {line.name: line.reading_of for line in self.lines}
        for row in self.published:
            if (
                not place.control
                and row.line in (place.line, read[place.line])
                and row.dataset == place.dataset
                and all(at.get(name) == value for name, value in row.at.items())
            ):
                return row.scores
        return ()

    def narrowed(
        self, datasets: list[str], seeds: int | None, federated: Mapping[str, Scalar]
    ) -> "Suite":
        """Choose sets and seeds, and change options of all federated lines.

        A set the suite does not list is added with the options of a known set, if it is one.
        """
        listed = {data.name: data for data in self.datasets}
        chosen = [listed.get(name) or _other(name) for name in dict.fromkeys(datasets)]
        return self.model_copy(
            update={
                "datasets": tuple(chosen) or self.datasets,
                "seeds": seeds or self.seeds,
                "federated": {**self.federated, **federated},
            }
        )


_ENTRIES: dict[str, type[_Strict]] = {"datasets": Data, "lines": Line, "published": Published}
_SCALAR_TYPES = {
    "bool_type": "bool",
    "int_type": "int",
    "float_type": "float",
    "string_type": "str",
}
"""Findings on a value that may be of any of these types, each of which has one."""
_TOML_TYPES = {"tuple_type": "should be a list", "model_type": "should be a table"}


@dataclass(frozen=True)
class Place:
    """Where a cell's scores stand in the tables; the seeds of a place are averaged.

    Attributes
    ----------
    dataset, line
        Names.
    at
        The grid's options here, sorted by name.
    control
        Whether this is the line's IID control.
    """

    dataset: str
    line: str
    at: tuple[tuple[str, Scalar], ...] = ()
    control: bool = False

    @property
    def words(self) -> str:
        """Line, control and point of the grid, as figures and lists name them."""
        at = ", ".join(f"{option} = {value}" for option, value in self.at)
        return f"{self.line}{', IID control' if self.control else ''}{f' ({at})' if at else ''}"


def suites() -> dict[str, Path]:
    """Give the suites that come with the project, by name."""
    folder = Path(str(files("simulations.bench"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(suite: str) -> Suite:
    """Load a suite by its name or by the path of a TOML file.

    Raises
    ------
    ConfigError
        If there is no such suite, or its file says something impossible.
    """
    known = suites()
    path = known.get(suite) or Path(suite)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"suite '{suite}': neither a file nor one of {', '.join(known)}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"suite {path}: not TOML ({error})") from None
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"suite {path}: {'; '.join(_explain(error, content))}") from None


def _explain(error: ValidationError, content: dict[str, Any]) -> list[str]:
    """Turn pydantic's findings into sentences, which say where in the file each is."""
    return list(dict.fromkeys(_sentence(finding, content) for finding in error.errors()))


def _sentence(finding: "ErrorDetails", content: dict[str, Any]) -> str:
    keys, where = list(finding["loc"]), ""
    model = _ENTRIES.get(str(keys[0]), Suite) if keys else Suite
    if len(keys) > 1 and keys[0] in (*_ENTRIES, "grid"):
        table, number = str(keys[0]), int(keys[1])
        entry = content[table][number]
        named = entry.get("name", entry.get("line")) if isinstance(entry, dict) else None
        where = f"{table}, entry {number + 1}{f' ({named!r})' if named else ''}: "
        keys = keys[2:]
    if finding["type"] == "extra_forbidden":
        return f"{where}unknown key '{keys[0]}'; known are {', '.join(model.model_fields)}"
    message = finding["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = _TOML_TYPES.get(finding["type"], message)
    if finding["type"] in _SCALAR_TYPES and keys[-1] == _SCALAR_TYPES[finding["type"]]:
        keys, message = keys[:-1], "should be a number, a text, true or false"
    path = ".".join(map(str, keys))
    if finding["type"] == "missing":
        return f"{where}{path}: {message}"
    return f"{where}{path} = {finding['input']!r}: {message}" if path else f"{where}{message}"


def plan(suite: Suite) -> list[tuple[Place, Cell]]:
    """Expand a suite, all of one seed before the next: a suite cut short is a table of fewer seeds.

    Raises
    ------
    ConfigError
        If a cell could not run on any data (:func:`~simulations.bench.check.check`), naming line,
        option and value of all that could not.
    """
    planned = list(expand(suite))
    problems: dict[tuple[str, str], str] = {}  # and the set where one is first met
    for place, cell in planned:
        if cell.seed:
            continue  # which changes no option
        try:
            check(cell)
        except ConfigError as error:
            problems.setdefault((place.line, str(error)), place.dataset)
    if problems:
        found = problems.items()
        raise ConfigError("; ".join(f"line '{line}' on {name}: {e}" for (line, e), name in found))
    return planned


def places(suite: Suite) -> list[Place]:
    """List the places of a suite's tables in their order."""
    return list(dict.fromkeys(place for place, _ in expand(suite)))


def of_lines(planned: list[tuple[Place, Cell]], lines: list[str]) -> list[tuple[Place, Cell]]:
    """Choose cells by the names of their lines; no name: all of them.

    Raises
    ------
    ConfigError
        If a name is that of no line.
    """
    known = dict.fromkeys(place.line for place, _ in planned)
    if unknown := [line for line in lines if line not in known]:
        raise ConfigError(f"'{unknown[0]}' is no line of the suite: {'; '.join(known)}")
    return [(place, cell) for place, cell in planned if not lines or place.line in lines]


def expand(suite: Suite) -> Iterator[tuple[Place, Cell]]:
    """Expand a suite as :func:`plan` does, without a look at its options."""
    points = [
        dict(zip(table, values, strict=True))
        for table in suite.grid
        for values in product(*table.values())
    ]
    distinct = {tuple(sorted(point.items())): point for point in points}
    for seed in range(suite.seeds):
        for (at, point), line, data in product(distinct.items(), suite.lines, suite.datasets):
            if line.harmony and not data.batches:
                continue
            options = {**suite.federated, **data.split} if line.federated else {}
            options |= {**line.options, **point}
            if line.harmony:
                options |= (
                    {"integrate": "harmony"} if line.federated else {"batch-key": data.batches}
                )
            place = Place(data.name, line.name, at)
            yield place, _cell(line, data, seed, options)
            if line.federated and line.name in suite.controls:
                partition = {"partition": suite.partition(data)} | options
                if partition["partition"] in _LABEL_MADE:
                    # The split's own options say nothing under IID, so controls are shared.
                    at_iid = tuple((name, value) for name, value in at if name not in _SPLIT)
                    iid = {name: v for name, v in options.items() if name not in _SPLIT}
                    control = Place(data.name, line.name, at_iid, control=True)
                    yield control, _cell(line, data, seed, {**iid, "partition": "iid"})


def _cell(line: Line, data: Data, seed: int, options: Options) -> Cell:
    return Cell(
        method=line.method,
        dataset=data.name,
        label_key=data.label_key,
        seed=seed,
        options=options,
    )


def _other(name: str) -> Data:
    from fedsc.data.registry import resolve
    from partitioning.simulation import with_own_k

    return Data(name=name, federated=with_own_k({}, resolve(name)))
