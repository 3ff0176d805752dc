"""The ServerApp: the phases of a run, in order (``docs/architecture.md``, the life of a run)."""

import sys
from collections.abc import Callable
from logging import INFO, WARNING
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Context, RecordDict
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from client_app import messages
from fedsc.config import Config
from fedsc.data.genes import agree, read_reference
from fedsc.data.preprocess import Preprocessing
from fedsc.federated.answers import no_cells, no_expression
from fedsc.federated.averaging import Arrays
from fedsc.federated.preprocessing import learn_preprocessing
from fedsc.methods import load_objective, method_of
from fedsc.model import Model
from server_app.checkpoint import ServerState, load_checkpoint, save_checkpoint
from server_app.clustering import cluster, finish
from server_app.federation import Federation, LabsLost
from server_app.run_folder import RunFolder
from server_app.scoring import pooled_scores
from server_app.strategy import FedSC

app = ServerApp()

Result = TypeVar("Result")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead a run: describe, statistics, train, cluster, score, finish."""
    config = Config.from_mapping(context.run_config)
    method = method_of(config)
    if method.objective:
        load_objective(method)  # a bad name stops the run here, before any lab works
    folder = RunFolder.open(config)
    with folder.led():
        _warn_of_shadow_environment()
        log(INFO, "run folder: %s", folder.path)
        run = {"name": folder.path.name, "folder": str(folder.path)}
        federation = Federation(grid, config, run)
        federation.gather()
        preprocessing = folder.read_preprocessing(config.fingerprint())
        if preprocessing is None:
            preprocessing = _without_lost_labs(federation, lambda: _learn_preprocessing(federation))
            folder.write_preprocessing(preprocessing, config.fingerprint())

        if method.objective:
            weights = _train(federation, folder, preprocessing)
        else:
            weights = _without_lost_labs(federation, lambda: _learn_pca(federation, preprocessing))
        model = Model(weights, preprocessing, config.method, unit=bool(method.objective))
        folder.write_model(model)
        folder.write_curves(config.alpha if method.pull == "fedsc" else None)

        federation.welcome()  # a lab that is back has clusters to get
        clustering = _without_lost_labs(federation, lambda: cluster(federation, model))
        if clustering is not None:
            folder.write_clusters(clustering.found.centres, clustering.found.sizes)
        leak = _leak(federation)
        if leak:
            log(WARNING, "%s", leak)
        warnings = [leak] if leak else []
        scores: dict[str, Any] = {
            "pooled": pooled_scores(federation, model),
            "federated": None if clustering is None else clustering.scores,
            "config": config.to_mapping(),
            "warnings": warnings,
        }
        folder.write_json("scores.json", scores)
        finish(federation, model, clustering, warnings)
        log(INFO, "scores: %s", _in_words(scores["pooled"] or scores["federated"] or {}))
        log(INFO, "run folder: %s", folder.path)


def _learn_preprocessing(federation: Federation) -> Preprocessing:
    config, labs = federation.config, federation.labs
    vocabulary = agree(
        {lab: about.genes for lab, about in labs.items()},
        config.genes,
        read_reference(Path(config.reference_genes)) if config.genes == "reference" else None,
        config.min_shared_genes,
    )
    kind = next(iter(labs.values())).kind
    log(INFO, "%d genes in common; values are %s", len(vocabulary), _KINDS[kind])
    names = RecordDict({"vocabulary": ConfigRecord({"names": messages.pack_names(vocabulary)})})
    ask = federation.ask("expression", names, no_expression(vocabulary, kind))
    return learn_preprocessing(ask, vocabulary, kind, config)


_KINDS = {
    "counts": "raw counts: scaled to one library size, then log1p",
    "lognorm": "log-normalised already: taken as they are",
}


def _train(federation: Federation, folder: RunFolder, preprocessing: Preprocessing) -> Arrays:
    config = federation.config
    method = method_of(config)
    fingerprint = config.fingerprint()
    state = load_checkpoint(folder.checkpoint, fingerprint) if config.resume else None
    if state is None:
        state = ServerState(0, _initial_weights(config, len(preprocessing.genes)))
    else:
        log(INFO, "resuming after round %d", state.round, extra={"round": state.round})
    folder.forget_metrics_after(state.round)

    def after_round(state: ServerState, rows: list[dict[str, Any]]) -> None:
        folder.append_metrics(rows)
        save_checkpoint(folder.checkpoint, state, fingerprint)
        for row in rows:
            if row.get("embedding_std", 1.0) < _COLLAPSED:
                log(
                    WARNING,
                    "round %d: the embedding of lab %s has collapsed (spread %.4f)",
                    row["round"],
                    row["lab"],
                    row["embedding_std"],
                    extra={"round": row["round"], "lab": row["lab"]},
                )

    records = messages.pack_preprocessing(preprocessing)
    strategy = FedSC(federation, config, method.pull, state, records, after_round)
    strategy.start(federation.grid)
    return state.weights


_COLLAPSED = 0.01


def _initial_weights(config: Config, n_genes: int) -> Arrays:
    from fedsc.rng import torch_generator

    objective = load_objective(method_of(config))
    weights = objective.init(n_genes, config, torch_generator(config.seed, "init"))
    return {name: tensor.numpy() for name, tensor in weights.items()}


def _learn_pca(federation: Federation, preprocessing: Preprocessing) -> Arrays:
    from fedsc.federated.pca import as_encoder, learn_pca

    records = messages.pack_preprocessing(preprocessing)
    return as_encoder(learn_pca(federation.ask("cells", records, no_cells(preprocessing)), 50))


def _leak(federation: Federation) -> str:
    """Say so where per-lab statistics hand the labels of a label-made split to the clustering."""
    config = federation.config
    from_labels = config.partition in ("subtypes", "dirichlet")
    simulated = all(about.simulated for about in federation.labs.values())
    per_lab = [
        name
        for name, used in {
            "scale = 'lab'": config.scale == "lab",
            "local-norm": config.local_norm,
        }.items()
        if used
    ]
    if not (from_labels and simulated and per_lab):
        return ""
    return (
        f"{' and '.join(per_lab)} on a split made from labels ({config.partition}): a lab is a set "
        "of labels here, so per-lab statistics leak them and the scores mean nothing; use "
        "partition = 'column' or 'iid'"
    )


def _without_lost_labs(federation: Federation, phase: Callable[[], Result]) -> Result:
    """Run a phase that needs every lab; when labs fail, go on without them from its start."""
    while True:
        try:
            return phase()
        except LabsLost as lost:
            federation.exclude(lost)


def _in_words(scores: dict[str, float | None]) -> str:
    words = ", ".join(f"{k} {'none' if v is None else f'{v:.4f}'}" for k, v in scores.items())
    return words or "none"


def _warn_of_shadow_environment() -> None:
    """Say so when Flower installed a second copy of every dependency for this run."""
    if any("runtime-envs" in entry for entry in sys.path):
        log(
            WARNING,
            "Flower runs this app in a fresh copy of its dependencies (%s); to use your own "
            "environment, stop the local SuperLink and start it again with "
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 in the environment",
            next(entry for entry in sys.path if "runtime-envs" in entry),
        )
