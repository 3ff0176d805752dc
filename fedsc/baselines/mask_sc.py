"""mask-sc: a masked encoder-decoder over cells laid out as images of genes (Mo, Chen & Bai).

A cell is a matrix of genes in 4 × 4 patches. An encoder sees a quarter of them; from that a decoder
predicts, for each of the others, what a frozen contrastive-sc encoder makes of it (eq. (6)). A
cell's embedding is the mean of the encoder's patch tokens on the whole cell.

The paper's Table 2 varies ``embedding`` and ``target``, its Fig. 4 ``side`` and ``mask_ratio``; its
Fig. 5 is :func:`fedsc.plots.attention.attention_map`.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fedsc.baselines import contrastive_sc
from fedsc.baselines.clustering import cluster, require_k
from fedsc.baselines.dense import all_dense
from fedsc.baselines.inputs import prepare
from fedsc.baselines.mask_training import Preset, layout_of, shape_of, train
from fedsc.baselines.method import Fitted, Settings
from fedsc.baselines.presets import choose
from fedsc.data.expression import Expression
from fedsc.data.preprocess import CellMatrix, Preprocessing
from fedsc.errors import DataError
from fedsc.models.masked import attention, embed, step_flops
from fedsc.models.mlp import Weights
from fedsc.models.patches import PATCH, Layout, patches_of
from fedsc.threads import one_thread

PRESETS = {
    "tiny": Preset("tiny", epochs=40, warmup=2, batch_size=32, learning_rate=3e-3),
    "small": Preset("small", epochs=200, warmup=10, batch_size=256, learning_rate=5e-4),
    "base": Preset("base", epochs=1600, warmup=40, batch_size=256, learning_rate=1e-4),
}
"""``base`` is the paper's (mask-sc §4.1), a job for a GPU; the others are for smaller machines."""

_INFERENCE_BATCH = 256


def fit(
    expression: Expression,
    preset: Preset,
    k: int | None,
    settings: Settings,
    *,
    teacher: Weights | None = None,
) -> Fitted:
    """Train mask-sc on one file and cluster its cells.

    Parameters
    ----------
    expression
        Cells of one file.
    preset
        What and how to train.
    k
        Number of clusters; ``None``: Leiden chooses.
    settings
        Seed, device and so on.
    teacher
        Holds the network ``encoder``, for the genes the preprocessing chooses; ``None`` trains
        contrastive-sc on the same cells first.

    Returns
    -------
    Fitted
        ``extras``: ``attention_class`` and ``attention_mean``, float32 (cells, patches), how much
        the class token, or the mean patch token, looks at each patch in the encoder's last layer;
        ``patch_places``, int (patches, 1 or 2); ``patch_genes``, (patches, 16), ``""`` = padding.

    Raises
    ------
    ConfigError
        If k is impossible.
    DataError
        If there are too few cells or genes.
    RunError
        If the checkpoint is of something else.
    """
    cells, preprocessing = prepare(expression, preset.side**2, preset.max_value)
    cells, preprocessing = _at_most(preset.side**2, cells, preprocessing)
    if k is not None:
        require_k(k, cells.n_cells)
    layout = layout_of(preset, cells.n_genes)
    _require_patches(layout, preset)

    if teacher is None and preset.target != "expression":
        of_teacher = choose(contrastive_sc.PRESETS, preset.teacher, {})
        teacher = contrastive_sc.train_encoder(cells, of_teacher, settings).weights
    trained = train(cells, layout, teacher or {}, preset, settings)
    embedding, extras = _embed(trained.weights, cells, layout, preset, settings.device)
    extras |= {"patch_places": layout.places.numpy(), "patch_genes": _names(preprocessing, layout)}
    clusters, choice = cluster(embedding, k, settings)
    record = {
        "genes": cells.n_genes,
        "patches": layout.n_patches,
        "losses": trained.losses,
        "clusters": choice,
        **_cost(preset, cells.n_cells, layout, trained.seconds),
    }
    return Fitted(embedding, clusters, record, extras)


def _at_most(
    most: int, cells: CellMatrix, preprocessing: Preprocessing
) -> tuple[CellMatrix, Preprocessing]:
    """Cut the genes that a tie in their ranking brought above ``most``."""
    fewer = replace(
        cells,
        values=cells.values[:, :most],
        mean=cells.mean[:most],
        std=cells.std[:most],
        measured=cells.measured[:most],
    )
    return fewer, replace(preprocessing, genes=preprocessing.genes[:most])


def _require_patches(layout: Layout, preset: Preset) -> None:
    if layout.n_patches < 2:
        raise DataError(
            f"mask-sc needs genes for at least 2 patches of {PATCH}; with {layout.n_genes} genes "
            f"and side = {preset.side} there is {layout.n_patches}"
        )


@one_thread()
def _embed(
    weights: Weights, cells: CellMatrix, layout: Layout, preset: Preset, device: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Embed whole cells and look at the last attention; see :func:`fit`."""
    shape, layout = shape_of(preset), layout.to(device)
    found: dict[str, list[np.ndarray]] = {"embedding": [], "class": [], "mean": []}
    for x in all_dense(cells, device, _INFERENCE_BATCH):
        patches = patches_of(x, layout)
        seen = attention(weights, patches, layout, shape)[:, :, 1:]
        seen = seen / seen.sum(dim=2, keepdim=True)
        found["embedding"].append(embed(weights, patches, layout, shape).cpu().numpy())
        found["class"].append(seen[:, 0].cpu().numpy())
        found["mean"].append(seen[:, 1:].mean(dim=1).cpu().numpy())
    embedding, of_class, mean = (np.concatenate(part) for part in found.values())
    return embedding, {"attention_class": of_class, "attention_mean": mean}


def _names(preprocessing: Preprocessing, layout: Layout) -> np.ndarray:
    names: np.ndarray = np.array([*preprocessing.genes, ""])
    return np.asarray(names[layout.genes.numpy()])


def _cost(preset: Preset, n_cells: int, layout: Layout, seconds: list[float]) -> dict[str, Any]:
    """Count what training takes, and what each size would take at the speed just reached."""

    def flops(one: Preset) -> float:  # HDF5 takes no whole number above 2^64
        shape = shape_of(replace(one, target=preset.target))
        return float(step_flops(shape, layout.n_patches, preset.mask_ratio))

    sizes = {
        name: {"FLOP per cell": flops(size), "FLOP": flops(size) * n_cells * size.epochs}
        for name, size in PRESETS.items()
    }
    cost: dict[str, Any] = {"FLOP per cell": flops(preset), "training seconds": sum(seconds)}
    if seconds:
        speed = flops(preset) * n_cells * len(seconds) / sum(seconds)
        cost["FLOP per second"] = speed
        for size in sizes.values():
            size["seconds at this speed"] = size["FLOP"] / speed
    return cost | {"sizes": sizes}
