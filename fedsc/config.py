"""Every option of a run, once: name, type, default, unit, allowed range, paper section.

Field names are snake_case here and kebab-case everywhere a person types them: in
``[tool.flwr.app.config]``, after ``flwr run --run-config`` and after ``fedsc run --set``. Flower's
run config has no null and no lists, so "not set" is the empty string or zero, as each option says.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedsc.errors import ConfigError

Rate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class Config(BaseModel):
    """The options of one run; frozen, validated on construction.

    Sections in brackets are of the FedSC paper unless said otherwise.
    """

    model_config = ConfigDict(
        alias_generator=_kebab,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )

    # Data
    dataset: str = Field(
        "pbmc68k_reduced",
        description="Name of a known set, path of a file, or folder with one file per lab.",
    )
    layer: str = Field(
        "", description="'' = X (a named set knows its own), 'raw' = .raw, else a layer's name."
    )
    label_key: str = Field(
        "", description="Column of obs with cell types, for splits and scores; '' = none known."
    )
    genes: Literal["intersection", "union", "reference"] = Field(
        "intersection", description="Which genes count when labs measured different ones."
    )
    reference_genes: str = Field(
        "", description="Text file, one gene a line, for genes = 'reference'."
    )
    min_shared_genes: Count = Field(100, description="Refuse labs that share fewer genes.")
    target_sum: NonNegative = Field(
        0.0, description="Library size every cell is scaled to [3.1]; 0 = the pool's median."
    )
    n_genes: Count = Field(500, description="Highly variable genes kept [4.1].")
    hvg: Literal["seurat", "seurat_v3"] = Field(
        "seurat", description="Rule that ranks genes, as scanpy's flavour of that name."
    )
    scale: Literal["pooled", "lab"] = Field(
        "pooled",
        description="Zero mean and unit variance per gene over the pool, or within each lab.",
    )
    max_value: Annotated[float, Field(gt=0)] = Field(
        10.0, description="Clip standardised values at ± this; inf = no clipping (the paper)."
    )

    # Labs
    partition: Literal["subtypes", "iid", "dirichlet", "column"] = Field(
        "subtypes", description="How one set is split into labs [4.1]."
    )
    labs: Annotated[int, Field(ge=1, le=1000)] = Field(4, description="Number of labs K [4.1].")
    subtypes_per_lab: Count = Field(3, description="Cell types per lab k [4.1].")
    cover: Literal["drop", "all"] = Field(
        "drop", description="When k·K < types: leave types out (the paper) or deal them too."
    )
    beta: Positive = Field(0.5, description="Concentration of the dirichlet split.")
    min_cells: Count = Field(10, description="Fewest cells a lab of the dirichlet split holds.")
    partition_key: str = Field("", description="Column of obs that names the lab (column split).")

    # Method
    method: str = Field("fedsc", description="Objective and pull; `fedsc methods` lists them.")
    pull: Literal["", "fedsc", "fedema", "constant", "none"] = Field(
        "", description="How far labs keep their own weights [3.3]; '' = as the method says."
    )
    alpha: Positive = Field(0.7, description="Radius of eq. (4), in L2 norm of the weights.")
    ema_lambda: NonNegative = Field(
        0.0, description="λ of FedEMA's μ = min(λ·d, 1); 0 = set once per lab from tau."
    )
    tau: Share = Field(0.7, description="First μ of a lab under FedEMA's automatic λ.")
    mu: Share = Field(0.5, description="Share of local weights kept under pull = 'constant'.")
    mask_rate: Rate = Field(0.9, description="Probability that a view drops a gene [3.2].")
    target_momentum: Share = Field(0.99, description="m of the target's moving average [3.2].")
    predictor: bool = Field(True, description="BYOL's predictor (ablation, Table 2).")
    ema: bool = Field(True, description="BYOL's moving-average target (ablation, Table 2).")
    stop_gradient: bool = Field(True, description="BYOL's stop-gradient (ablation, Table 2).")
    temperature: NonNegative = Field(
        0.0, description="Temperature of the contrastive methods; 0 = the method's own."
    )
    queue: Count = Field(4096, description="MoCo: most keys kept; never more than a lab's cells.")
    norm: Literal["batch", "layer", "none"] = Field(
        "batch", description="Normalisation of the encoder's hidden layers [3.2]."
    )
    local_norm: bool = Field(
        False, description="FedBN: normalisation layers stay in the lab; leaks label-made splits."
    )

    # Training
    rounds: Count = Field(300, description="Communication rounds [4.1].")
    local_epochs: Count = Field(5, description="Epochs E per lab and round [4.1].")
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="Cells per step [4.1].")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Made anew every round.")
    learning_rate: Positive = Field(0.032, description="Step size [4.1].")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Learning rate over the rounds."
    )
    momentum: Rate = Field(0.5, description="SGD's momentum [4.1].")
    weight_decay: NonNegative = Field(5e-4, description="L2 penalty [4.1].")

    # Federation
    min_labs: int = Field(0, ge=0, description="Fewest labs a round needs; 0 = half, at least 1.")
    fraction_train: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the labs that train in a round."
    )
    round_timeout: Positive = Field(3600.0, description="Seconds a round waits for its labs.")

    # Clusters
    clusters: int = Field(
        0, ge=0, description="Clusters k of the pool; 0 = as many as the labs name cell types."
    )

    # Run
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Moves split, initial weights and masks together."
    )
    output: str = Field(
        "runs", description="Folder of run folders; relative to where Flower was first started."
    )
    run_name: str = Field(
        "", description="Name of the run folder; '' = time, method, set and seed."
    )
    resume: str = Field("", description="Run folder to go on with; '' = a new run.")

    @model_validator(mode="after")
    def _together(self) -> "Config":
        if self.partition == "column" and not self.partition_key:
            raise ValueError(
                "partition = 'column' needs partition-key, the column of obs that names the lab"
            )
        if self.genes == "reference" and not self.reference_genes:
            raise ValueError("genes = 'reference' needs reference-genes, a file of gene names")
        return self

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> "Config":
        """Validate options as a person typed them.

        Parameters
        ----------
        options
            Kebab-case (or snake_case) names to values.

        Raises
        ------
        ConfigError
            Naming every bad key, its value and what is allowed.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None

    def to_mapping(self) -> dict[str, bool | int | float | str]:
        """Give all options under their kebab-case names, defaults included."""
        return self.model_dump(by_alias=True)

    def fingerprint(self) -> str:
        """Hash the options that decide a run's model (not where it is written, how it is used)."""
        indecisive = {"output", "run_name", "resume", "round_timeout", "clusters"}
        decisive = self.model_dump(by_alias=True, exclude=indecisive)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def _explain(error: ValidationError) -> str:
    """Turn pydantic's findings into one line per key."""
    lines = []
    for finding in error.errors():
        if not finding["loc"]:
            lines.append(finding["msg"].removeprefix("Value error, "))
            continue
        key = _kebab(str(finding["loc"][0]))
        if finding["type"] == "extra_forbidden":
            names = [_kebab(name) for name in Config.model_fields]
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are: {', '.join(names)}"
            lines.append(f"unknown option '{key}': {hint}")
        else:
            message = finding["msg"].removeprefix("Input ").removeprefix("Value error, ")
            lines.append(f"option {key} = {finding['input']!r}: {message}")
    return "; ".join(lines)
