"""A trained model as a run folder keeps it: enough to embed a new file, offline."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedsc import tensors
from fedsc.data.expression import Expression
from fedsc.data.preprocess import Preprocessing, transform
from fedsc.errors import DataError
from fedsc.federated.averaging import Arrays

MODEL, GENES, VOCABULARY = "model.safetensors", "genes.csv", "vocabulary.txt"
CLUSTERS = "clusters.npz"


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
    """

    weights: Arrays
    preprocessing: Preprocessing
    method: str
    unit: bool

    def embed(self, expression: Expression) -> np.ndarray:
        """Embed cells of a file the model has not seen, float32 (cells, dimensions).

        Raises
        ------
        DataError
            If the file measured none of the model's genes or holds another kind of values.
        """
        from fedsc.training import embed_cells

        return embed_cells(self.weights, transform(expression, self.preprocessing), unit=self.unit)

    def files(self) -> dict[str, bytes]:
        """Give the files of the model, by name; the same model gives the same bytes."""
        preprocessing = self.preprocessing
        genes = pd.DataFrame(
            {"gene": preprocessing.genes, "mean": preprocessing.mean, "std": preprocessing.std}
        )
        about = {
            "method": self.method,
            "unit": self.unit,
            "target-sum": preprocessing.target_sum,
            "max-value": preprocessing.max_value,
        }
        return {
            MODEL: tensors.pack(self.weights, about),
            GENES: genes.to_csv(index=False).encode(),
            VOCABULARY: ("\n".join(preprocessing.vocabulary) + "\n").encode(),
        }


def load_model(folder: Path) -> Model:
    """Load the model of a finished run.

    Raises
    ------
    DataError
        If the folder holds no model, or its files are damaged.
    """
    try:
        weights, about = tensors.read(folder / MODEL)
        # "round_trip", or a mean would come back a bit off.
        genes = pd.read_csv(
            folder / GENES, float_precision="round_trip", keep_default_na=False, dtype={"gene": str}
        )
        vocabulary = (folder / VOCABULARY).read_text().splitlines()
        preprocessing = Preprocessing(
            vocabulary=tuple(vocabulary),
            genes=tuple(genes["gene"]),
            mean=genes["mean"].to_numpy(),
            std=genes["std"].to_numpy(),
            target_sum=about["target-sum"],
            max_value=about["max-value"],
        )
        return Model(weights, preprocessing, about["method"], about["unit"])
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not the folder of a finished run: {error.filename} is missing"
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{folder}: the model cannot be read ({error})") from error


def pack_centres(centres: np.ndarray, sizes: np.ndarray) -> bytes:
    """Give the content of ``clusters.npz``.

    Parameters
    ----------
    centres
        Of the pool's clusters, the largest first, float64 (k, d).
    sizes
        Cells of each, int64 (k,).
    """
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, centres=centres, sizes=sizes)
    return content.getvalue()


def load_centres(folder: Path) -> np.ndarray | None:
    """Load the centres of a run's clusters, float64 (k, d); ``None`` where it made none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = folder / CLUSTERS
    if not path.exists():
        return None
    try:
        # From memory: of a damaged file NumPy forgets to close.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            centres: np.ndarray = arrays["centres"]
            if centres.ndim != 2 or not len(centres) or not np.isfinite(centres).all():
                raise ValueError(f"centres of shape {centres.shape}")
            return centres
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the clusters cannot be read ({error})") from error
