"""A trained model as a run folder keeps it: enough to embed a new file, offline.

What is written in a model folder, and what is believed of one, stands here. Three files make a
model (the run's clusters stand beside them, see ``clusters.py``). A folder may come from anybody:
sizes are bounded before anything is read, all is checked before it is used.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from fedsc import tensors
from fedsc.data.coverage import Coverage, coverage
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix, Preprocessing, transform
from fedsc.data.reading.backed import Backed
from fedsc.data.reading.memory import refuse_large
from fedsc.errors import DataError
from fedsc.federated.averaging import Arrays
from fedsc.models.check import encoder_problem
from fedsc.models.names import is_norm
from fedsc.options import Scale
from fedsc.private import read_private

MODEL, GENES, VOCABULARY = "model.safetensors", "genes.csv", "vocabulary.txt"

FORMAT = 1
"""Version of a model's files; another number is refused."""

_LAYER = re.compile(r"encoder\.\d+\.weight")
_MOST_TEXT = 2**26  # bytes of a list of genes: a million long names


@dataclass(frozen=True)
class Model:
    """An encoder and what its input is made with.

    Attributes
    ----------
    weights
        Global weights.
    preprocessing
        Genes, means, standard deviations, library size.
    method
        Name of the method that trained it.
    unit
        Whether an embedding's rows have length 1.
    scale
        Whether cells are standardised over the pool or within each lab, which for a new file
        means within the file.
    local_norm
        Whether each lab kept the normalisation layers of its own (FedBN); those in ``weights``
        are untrained then.
    """

    weights: Arrays
    preprocessing: Preprocessing
    method: str
    unit: bool
    scale: Scale
    local_norm: bool

    @property
    def needs_private(self) -> bool:
        """Whether a part of the encoder is in the labs alone."""
        return self.local_norm and any(is_norm(name) for name in self.weights)

    @property
    def dimensions(self) -> int:
        """Columns of an embedding."""
        layers = [name for name in self.weights if _LAYER.fullmatch(name)]
        return len(self.weights[max(layers, key=lambda name: int(name.split(".")[1]))])

    @cached_property
    def digest(self) -> str:
        """Name of the model by its content: what was made with it can be told from all else."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files().items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()[:16]

    def prepare(self, expression: Expression | Backed) -> CellMatrix:
        """Make encoder input of cells the model has not seen.

        Raises
        ------
        DataError
            If the file measured none of the model's genes, holds another kind of values, or has
            too few cells to be standardised by itself.
        """
        cells = transform(expression, self.preprocessing, scale=self.scale)
        if self.scale == "lab" and cells.n_cells < 2:
            raise DataError("the model standardises within each file, which takes 2 cells or more")
        return cells

    def coverage(self, cells: CellMatrix) -> Coverage:
        """Tell how much of what the model looks at was measured in cells it prepared."""
        return coverage(cells.measured, self.weights["encoder.0.weight"])

    def embed(
        self, expression: Expression | CellMatrix, private: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Embed cells, float32 (cells, dimensions), as a lab of the run embeds its own.

        Parameters
        ----------
        expression
            Cells of a file, or what :meth:`prepare` made of them.
        private
            What one lab kept to itself (:func:`load_private_norm`), for a model whose labs have
            normalisation layers of their own.

        Raises
        ------
        DataError
            If the cells cannot be prepared, normalisation layers are missing, or an embedding is
            not finite.
        """
        from fedsc.training import embed_cells, with_kept_norm

        if self.needs_private and not private:
            raise DataError(
                "the model was trained with local-norm: its normalisation layers stayed in the "
                "labs, and without those of one lab it cannot embed; give that lab's private state "
                "(--private …/private-NNNNNN.safetensors, in the lab's own folder of the run)"
            )
        cells = expression if isinstance(expression, CellMatrix) else self.prepare(expression)
        weights = with_kept_norm(self.weights, dict(private or {}))
        embedding = embed_cells(weights, cells, unit=self.unit)
        if not np.isfinite(embedding).all():
            raise DataError("the model gives embeddings that are not finite: it is damaged")
        return embedding

    def files(self) -> dict[str, bytes]:
        """Give the files of the model, by name; the same model gives the same bytes."""
        preprocessing = self.preprocessing
        genes = pd.DataFrame(
            {"gene": preprocessing.genes, "mean": preprocessing.mean, "std": preprocessing.std}
        )
        about = {
            "format": FORMAT,
            "method": self.method,
            "unit": self.unit,
            "scale": self.scale,
            "local-norm": self.local_norm,
            "target-sum": preprocessing.target_sum,
            "max-value": preprocessing.max_value,
        }
        return {
            MODEL: tensors.pack(self.weights, about),
            GENES: genes.to_csv(index=False).encode(),
            VOCABULARY: ("\n".join(preprocessing.vocabulary) + "\n").encode(),
        }


def load_model(folder: Path) -> Model:
    """Load the model of a finished run, and check that it is one.

    Raises
    ------
    DataError
        If the folder holds no model, or its files are damaged, too large, or not what a run
        writes.
    """
    for name in (MODEL, GENES, VOCABULARY):
        if not (folder / name).exists():
            raise DataError(f"{folder} is not the folder of a finished run: {name} is missing")
    try:
        weights, about = _tensors(folder / MODEL)
        if about.get("format") != FORMAT:
            raise ValueError(
                f"its format is {about.get('format', 'none')!r:.20}, this version of FedSC reads "
                f"{FORMAT}"
            )
        preprocessing = _preprocessing(folder, about)
        if problem := encoder_problem(weights, len(preprocessing.genes)):
            raise ValueError(problem)
        return Model(
            weights,
            preprocessing,
            method=_told(about, "method", str),
            unit=_told(about, "unit", bool),
            scale=_told(about, "scale", *get_args(Scale)),
            local_norm=_told(about, "local-norm", bool),
        )
    except (OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{folder}: the model cannot be read ({_line(error)})") from error


def load_private_norm(path: Path, model: Model) -> Arrays:
    """Load what a lab kept to itself in a run with ``local-norm``: ``private-NNNNNN.safetensors``.

    Labs of one node share a file, which has a name in the folder of each: the folder tells the lab.

    Returns
    -------
    Arrays
        The lab's private tensors.

    Raises
    ------
    DataError
        If they cannot be read, or are not normalisation layers of this model's encoder.
    """
    from fedsc.training import with_kept_norm

    if not model.needs_private:
        raise DataError(f"{path}: the model is whole and needs no lab's private state")
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    try:
        refuse_large(path)
        states = read_private(path)
        private = states.get("", states.get(path.resolve().parent.name))
        if private is None:
            raise ValueError(
                f"it is of the labs {', '.join(states)}: give it as it lies in one's folder"
            )
        whole = with_kept_norm(model.weights, private)
        replaced = {name for name, array in whole.items() if array is not model.weights.get(name)}
        missing = {name for name in model.weights if is_norm(name)} - replaced
        if missing or whole.keys() != model.weights.keys():
            odd = sorted(missing or whole.keys() - model.weights.keys())
            raise ValueError(f"not the layers of this model: {odd[0]}")
        if problem := encoder_problem(whole, len(model.preprocessing.genes)):
            raise ValueError(problem)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: no private state of this run ({_line(error)})") from error
    return private


def _preprocessing(folder: Path, about: Mapping[str, Any]) -> Preprocessing:
    # "round_trip", or a mean would come back a bit off.
    genes = pd.read_csv(
        io.BytesIO(_bytes(folder / GENES, _MOST_TEXT)),
        float_precision="round_trip",
        keep_default_na=False,
        dtype={"gene": str, "mean": float, "std": float},
    )
    # Not splitlines, which ends a line at more than ``files`` writes at the end of one.
    vocabulary = _bytes(folder / VOCABULARY, _MOST_TEXT).decode().removesuffix("\n").split("\n")
    names, mean, std = genes["gene"], genes["mean"].to_numpy(), genes["std"].to_numpy()
    if not len(names):
        raise ValueError(f"{GENES} names no genes")
    for file, listed in ((GENES, list(names)), (VOCABULARY, vocabulary)):
        if len(set(listed)) < len(listed) or "" in listed:
            raise ValueError(f"{file} names a gene twice, or one without a name")
    if unknown := set(names) - set(vocabulary):
        raise ValueError(f"{GENES} names {min(unknown)!r:.40}, which {VOCABULARY} does not")
    with np.errstate(over="ignore", under="ignore"):  # cells are standardised in float32
        if not (np.isfinite(np.float32(mean)).all() and np.isfinite(np.float32(std)).all()):
            raise ValueError(f"{GENES} holds values that are not finite")
        if not (np.float32(std) > 0).all():
            raise ValueError(f"{GENES} holds standard deviations that are not positive")
    target_sum, max_value = (
        float(_told(about, n, int, float)) for n in ("target-sum", "max-value")
    )
    if not (0 <= target_sum < math.inf and max_value > 0):
        raise ValueError(f"target-sum {target_sum}, max-value {max_value}")
    return Preprocessing(tuple(names), mean, std, target_sum, max_value, tuple(vocabulary))


def _told(about: Mapping[str, Any], key: str, *allowed: Any) -> Any:
    """Give what a record says, which has to be of one of some types, or one of some values."""
    value = about.get(key)
    if type(value) not in allowed and value not in [a for a in allowed if not isinstance(a, type)]:
        raise ValueError(f"{key} is {value!r:.40}")
    return value


def _tensors(path: Path) -> tuple[Arrays, dict[str, Any]]:
    refuse_large(path)
    return tensors.read(path)


def _bytes(path: Path, most: int) -> bytes:
    refuse_large(path, most)
    return path.read_bytes()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
