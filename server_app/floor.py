"""What needs no training: principal components of the same genes, clustered and scored alike."""

from logging import INFO
from typing import Any

from flwr.common import log

from fedsc.config import Config
from fedsc.data.preprocess import Preprocessing
from fedsc.federated.answers import no_cells
from fedsc.federated.averaging import Arrays
from fedsc.federated.bounds import LARGEST
from fedsc.model import Model
from protocol import ask as asking
from server_app.analysis import embed
from server_app.clustering import find_clusters
from server_app.federation import Federation
from server_app.integration import Integration, integrate
from server_app.scoring import pooled_scores

_COMPONENTS = 50


def pca(federation: Federation, preprocessing: Preprocessing) -> Arrays:
    """Learn principal components of the pool, as the weights of an encoder."""
    return federation.phase(lambda: _learn_pca(federation, preprocessing))


def _learn_pca(federation: Federation, preprocessing: Preprocessing) -> Arrays:
    from fedsc.federated.pca import as_encoder, learn_pca

    ask = federation.ask(
        asking.CELLS,
        asking.about_cells(preprocessing),
        no_cells(preprocessing),
        largest=min(preprocessing.max_value, LARGEST),
    )
    return as_encoder(learn_pca(ask, _COMPONENTS))


def score_floor(federation: Federation, config: Config, model: Model) -> dict[str, Any] | None:
    """Score what needs no training, beside a run that trains.

    Returns
    -------
    dict or None
        ``graph``, ``kmeans``, ``pooled``, ``pooled_integrated`` and ``questions`` as for the run
        itself, which counts its own without these; ``None`` where no lab names cell types, since
        there is nothing to hold clusters against.
    """
    if not federation.types:
        log(INFO, "no floor: no lab names cell types to hold clusters against")
        return None
    log(INFO, "floor: the same without training, on principal components")
    before = federation.questions.copy()
    components = Model(
        pca(federation, model.preprocessing),
        model.preprocessing,
        "fedpca",
        unit=False,
        scale=config.data.scale,
        local_norm=False,
    )

    def scored() -> dict[str, Any]:
        embed(federation, components)
        integration = integrate(federation, config, components.dimensions)
        found = find_clusters(federation, config, components, integration.name)
        return {**found.scores, **pooled(federation, config, components, integration)}

    scores = federation.phase(scored)
    scores["questions"] = dict(federation.questions - before)
    federation.questions = before
    return scores


def pooled(
    federation: Federation, config: Config, model: Model, integration: Integration
) -> dict[str, Any]:
    """Score as the papers do, and where labs were integrated again after it."""
    harmony = integration.harmony
    return {
        "pooled": pooled_scores(federation, config, model),
        "pooled_integrated": pooled_scores(federation, config, model, harmony) if harmony else None,
    }
