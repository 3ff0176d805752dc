"""Every option of a run, once: name, type, default, unit, allowed range, paper section.

Options stand in groups, and a function takes the group it needs. Where a person types them they
have one flat kebab-case name each (``n-genes``), which is the field's own unless said otherwise:
in ``[tool.flwr.app.config]``, after ``flwr run --run-config`` and after ``fedsc run --set``.
Flower's run config has no null and no lists, so "not set" is the empty string or zero, as each
option says. Sections in brackets are of the FedSC paper unless said otherwise.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Scale = Literal["pooled", "lab"]

GENES = 500
"""Highly variable genes kept where neither the options nor the method say how many [4.1]."""

MOST_LABS = 1000
"""Labs that one set or folder is split into."""

_FINEST = 100.0  # resolution of a graph's clusters


def kebab(name: str) -> str:
    """Write a field's name as a person types it."""
    return name.replace("_", "-")


def _option(
    default: Any,
    description: str,
    *,
    unit: str = "",
    name: str | None = None,
    changeable: bool = False,
) -> Any:
    """Declare an option.

    ``name`` where its flat name is not the field's own; ``changeable`` where a resumed run may have
    another value, because nothing that was done before depends on it.
    """
    extra: dict[str, Any] = {"unit": unit, "changeable": changeable}
    return Field(default, description=description, alias=name, json_schema_extra=extra)


class _Group(BaseModel):
    """Options that belong together; frozen, validated on construction."""

    model_config = ConfigDict(
        alias_generator=kebab,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )


def _as_text(value: object) -> object:
    """Take a number where text that may hold one is meant."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_as_text)]


class DataOptions(_Group):
    """Which cells, which genes, how they become the encoder's input."""

    dataset: str = _option(
        "10x_pbmc",
        "Name of a known set, path of a file or 10x folder, or folder with one file per lab.",
        changeable=True,
    )
    layer: str = _option(
        "", "'' = X (a named set knows its own), 'raw' = .raw, else a layer's name."
    )
    label_key: str = _option(
        "", "Column of obs with cell types, for splits and scores; '' = none known."
    )
    symbols: str = _option(
        "", "Column of var that names the genes; '' = they have the names of var."
    )
    make_unique: bool = _option(
        False, "Number names of genes and cells that repeat; they are refused otherwise."
    )
    fold_case: bool = _option(
        False, "Case of gene names does not count: they are spelt in capitals in all labs."
    )
    genes: Literal["intersection", "union", "reference"] = _option(
        "intersection", "Which genes count when labs measured different ones."
    )
    reference_genes: str = _option(
        "", "Text file, one gene a line, for genes = 'reference'.", changeable=True
    )
    min_shared_genes: Count = _option(100, "Refuse labs that share fewer genes.", unit="genes")
    target_sum: NonNegative = _option(
        0.0, "Library size every cell is scaled to [3.1]; 0 = the pool's median.", unit="counts"
    )
    n_genes: Annotated[int, Field(ge=0, validate_default=True)] = _option(
        0,
        "Highly variable genes kept; 0 = the method's own: 500 [4.1], of fedpca 2000.",
        unit="genes",
    )
    hvg: Literal["seurat", "seurat_v3"] = _option(
        "seurat", "Rule that ranks genes, as scanpy's flavour of that name."
    )
    scale: Scale = _option(
        "pooled", "Zero mean and unit variance per gene over the pool, or within each lab."
    )
    max_value: Annotated[float, Field(gt=0)] = _option(
        10.0, "Clip standardised values at ± this; inf = no clipping (the paper)."
    )

    min_genes: Text = _option(
        "",
        "Quality control: fewest genes of a cell; a number, 'mad' = 5 MAD below the pool's median, "
        "'' = none.",
        unit="genes",
    )
    min_counts: Text = _option(
        "",
        "Quality control: fewest counts of a cell; a number, 'mad' = 5 MAD below the pool's "
        "median, '' = none.",
        unit="counts",
    )
    max_mito: Text = _option(
        "",
        "Quality control: largest mitochondrial share of a cell's counts; a number up to 1, 'mad' "
        "= 3 MAD above the pool's median, '' = none.",
    )
    min_cells_per_gene: Annotated[int, Field(ge=0)] = _option(
        0, "Quality control: fewest cells of the pool that express a gene.", unit="cells"
    )

    @property
    def controls_quality(self) -> bool:
        """Whether cells or genes are to be left out."""
        return self.judges_cells or self.min_cells_per_gene > 0

    @property
    def judges_cells(self) -> bool:
        """Whether cells are to be left out."""
        return bool(self.min_genes or self.min_counts or self.max_mito)

    @field_validator("min_genes", "min_counts")
    @classmethod
    def _fewest(cls, value: str) -> str:
        return _limit(value, 1, math.inf, "a number from 1")

    @field_validator("max_mito")
    @classmethod
    def _largest_share(cls, value: str) -> str:
        return _limit(value, 0, 1, "a share from 0 to 1")

    @field_validator("n_genes")
    @classmethod
    def _some_genes(cls, value: int) -> int:
        return value or GENES

    @model_validator(mode="after")
    def _reference_has_a_file(self) -> "DataOptions":
        if self.genes == "reference" and not self.reference_genes:
            raise ValueError("genes = 'reference' needs reference-genes, a file of gene names")
        return self


def _limit(value: str, least: float, most: float, allowed: str) -> str:
    """Take ``""``, ``"mad"`` or a number that is in the range."""
    if value in ("", "mad"):
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most or math.isinf(number):
        raise ValueError(f"should be {allowed}, 'mad' or '' (none)")
    return value


class SplitOptions(_Group):
    """How one set becomes the labs of a simulation."""

    scheme: Literal["subtypes", "iid", "dirichlet", "column"] = _option(
        "subtypes", "How one set is split into labs [4.1].", name="partition"
    )
    labs: Annotated[int, Field(ge=1, le=MOST_LABS)] = _option(
        4, "Number of labs K [4.1].", unit="labs"
    )
    subtypes_per_lab: Count = _option(2, "Cell types per lab k [4.1].", unit="types")
    cover: Literal["", "drop", "all"] = _option(
        "",
        "When k·K < types: leave types out (the paper) or deal them too; '' = drop for a set given "
        "by its name, all for a path.",
    )
    beta: Positive = _option(0.5, "Concentration of the dirichlet split.")
    min_cells: Count = _option(
        10,
        "Fewest cells of a lab: the dirichlet split gives as many, fewer are refused.",
        unit="cells",
    )
    key: str = _option("", "Column of obs that names the lab (column split).", name="partition-key")

    @model_validator(mode="after")
    def _column_has_a_key(self) -> "SplitOptions":
        if self.scheme == "column" and not self.key:
            raise ValueError(
                "partition = 'column' needs partition-key, the column of obs that names the lab"
            )
        return self


class MethodOptions(_Group):
    """The objective a lab trains and the rule by which it keeps its own weights."""

    name: str = _option("fedsc", "Objective and pull; `fedsc methods` lists them.", name="method")
    pull: Literal["", "fedsc", "fedema", "constant", "none"] = _option(
        "", "How far labs keep their own weights [3.3]; '' = as the method says."
    )
    alpha: Positive = _option(0.7, "Radius of eq. (4), in L2 norm of the weights.", unit="L2 norm")
    ema_lambda: NonNegative = _option(
        0.0, "λ of FedEMA's μ = min(λ·d, 1); 0 = set once per lab from tau."
    )
    tau: Share = _option(0.7, "First μ of a lab under FedEMA's automatic λ.")
    mu: Share = _option(0.5, "Share of local weights kept under pull = 'constant'.")
    mask_rate: Rate = _option(0.9, "Probability that a view drops a gene [3.2].")
    target_momentum: Share = _option(0.99, "m of the target's moving average [3.2].")
    predictor: bool = _option(True, "BYOL's predictor (ablation, Table 2).")
    ema: bool = _option(True, "BYOL's moving-average target (ablation, Table 2).")
    stop_gradient: bool = _option(True, "BYOL's stop-gradient (ablation, Table 2).")
    temperature: NonNegative = _option(
        0.0, "Temperature of the contrastive methods; 0 = the method's own."
    )
    queue: Count = _option(
        4096, "MoCo: most keys kept; never more than a lab's cells.", unit="keys"
    )
    norm: Literal["batch", "layer", "none"] = _option(
        "batch", "Normalisation of the encoder's hidden layers [3.2]."
    )
    local_norm: bool = _option(
        False, "FedBN: normalisation layers stay in the lab; leaks label-made splits."
    )


class TrainingOptions(_Group):
    """How long and how fast labs train."""

    rounds: Count = _option(300, "Communication rounds [4.1].", unit="rounds", changeable=True)
    local_epochs: Count = _option(5, "Epochs E per lab and round [4.1].", unit="epochs")
    batch_size: Annotated[int, Field(ge=2)] = _option(128, "Cells per step [4.1].", unit="cells")
    optimizer: Literal["sgd", "adamw"] = _option("sgd", "Made anew every round.")
    learning_rate: Positive = _option(0.032, "Step size [4.1].")
    schedule: Literal["constant", "cosine"] = _option("constant", "Learning rate over the rounds.")
    momentum: Rate = _option(0.5, "SGD's momentum [4.1].")
    weight_decay: NonNegative = _option(5e-4, "L2 penalty [4.1].")


class FederationOptions(_Group):
    """Which labs take part, how long they are waited for, and how their updates are averaged."""

    wait_for_labs: Annotated[int, Field(ge=0)] = _option(
        0,
        "Labs to wait for at the start; 0 = a simulation's own number. Real labs need it.",
        unit="labs",
        changeable=True,
    )
    min_updates: Annotated[int, Field(ge=0)] = _option(
        0,
        "Valid updates a round needs; 0 = half of the labs asked.",
        unit="updates",
        changeable=True,
    )
    fraction_train: Annotated[float, Field(gt=0, le=1)] = _option(
        1.0, "Share of the connected labs that train in a round; at least one does."
    )
    round_timeout: Positive = _option(
        3600.0, "How long a round waits for its labs.", unit="seconds", changeable=True
    )
    describe_timeout: Positive = _option(
        60.0,
        "How long all wait for a new node to describe itself; a later answer counts as well.",
        unit="seconds",
        changeable=True,
    )
    max_cells: Count = _option(
        10_000_000, "Most cells a lab may claim.", unit="cells", changeable=True
    )
    max_genes: Count = _option(200_000, "Most genes a lab may name.", unit="genes", changeable=True)
    max_types: Count = _option(
        1000, "Most cell types a lab may name.", unit="types", changeable=True
    )
    aggregate: Literal["mean", "median", "trimmed-mean"] = _option(
        "mean",
        "FedAvg [3.3], or by coordinate against lying labs (Yin et al. 2018), which count alike.",
    )
    trim: Annotated[float, Field(gt=0, lt=0.5)] = _option(
        0.1, "trimmed-mean: share of the updates left out at either end, rounded up."
    )
    upload: Literal["float32", "float16", "bfloat16"] = _option(
        "float32",
        "Type in which labs send updates; the small ones halve the bytes, with error feedback.",
    )


class AnalysisOptions(_Group):
    """What is made of the labs' embeddings at the end."""

    integrate: Literal["none", "harmony", "auto"] = _option(
        "none",
        "Harmony over labs of different techniques; auto = where it seems to help. Refused on "
        "splits made from labels or at random.",
        changeable=True,
    )
    batch_key: str = _option(
        "",
        "Column of obs with batches within a lab, for Harmony; '' = each lab is one batch.",
        changeable=True,
    )
    cluster_by: Literal["graph", "kmeans"] = _option(
        "graph",
        "Which clusters the cells get: of a graph (k unknown) or of k-means.",
        changeable=True,
    )
    resolution: Text = _option(
        "0.4",
        "Of the graph's clusters: the higher, the more. Several with commas; the first names the "
        "cells' clusters.",
        changeable=True,
    )
    k: Annotated[int, Field(ge=0)] = _option(
        0,
        "Clusters k of k-means; 0 = as many as the labs name cell types.",
        unit="clusters",
        name="clusters",
        changeable=True,
    )
    draw_map: bool = _option(
        True, "Draw the map that all labs share, UMAP of the micro-centres.", changeable=True
    )
    type_threshold: Share = _option(
        0.5,
        "A cluster has a type that at least this share of its annotated cells has.",
        changeable=True,
    )

    @property
    def resolutions(self) -> tuple[float, ...]:
        """The resolutions in the order given."""
        return tuple(float(part) for part in self.resolution.split(","))

    @field_validator("resolution")
    @classmethod
    def _positive_numbers(cls, value: str) -> str:
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if not numbers or not all(0 < number <= _FINEST for number in numbers):
            raise ValueError(
                f"should be a number above 0 and up to {_FINEST:g}, or several with commas"
            )
        return value

    @model_validator(mode="after")
    def _integration_has_batches(self) -> "AnalysisOptions":
        if self.batch_key and self.integrate == "none":
            raise ValueError("batch-key is for integrate = 'harmony' or 'auto'")
        return self


class RunOptions(_Group):
    """The seed, and where a run is written."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = _option(
        0, "Moves split, initial weights and masks together."
    )
    output: str = _option(
        "runs",
        "Folder of run folders. `fedsc run` takes it relative to the current folder; give "
        "`flwr run` an absolute path.",
        changeable=True,
    )
    name: str = _option(
        "",
        "Name of the run folder; '' = time, method, set and seed.",
        name="run-name",
        changeable=True,
    )
    files: bool = _option(
        True,
        "Write report.html, curves.png and, in a simulation, each lab's cells with the results "
        "(.h5ad) into the run folder. Real labs always get their files.",
        changeable=True,
    )
    resume: str = _option("", "Run folder to go on with; '' = a new run.", changeable=True)
