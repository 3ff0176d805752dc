"""The ServerApp: the phases of a run, in order (``docs/architecture.md``, the life of a run)."""

import sys
from collections.abc import Callable
from logging import INFO, WARNING
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Context, RecordDict
from flwr.common import log
from flwr.common.logger import update_console_handler
from flwr.serverapp import Grid, ServerApp

from fedsc.config import Config
from fedsc.data.genes import agree, case_note, read_reference
from fedsc.data.preprocess import Preprocessing
from fedsc.federated.answers import no_cells, no_expression
from fedsc.federated.averaging import Arrays
from fedsc.federated.preprocessing import learn_preprocessing
from fedsc.methods import load_objective, method_of
from fedsc.model import Model
from protocol.records import pack_names, pack_preprocessing
from server_app.checkpoint import ServerState, load_checkpoint, save_checkpoint
from server_app.clustering import cluster, finish
from server_app.federation import Federation, LabsLost
from server_app.run_folder import RunFolder
from server_app.scoring import pooled_scores
from server_app.strategy import RoundResult, train

app = ServerApp()

Result = TypeVar("Result")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead a run: describe, statistics, train, cluster, score, finish."""
    config = Config.from_mapping(context.run_config)
    method = method_of(config.method)
    if method.objective:
        load_objective(method)  # a bad name stops the run here, before any lab works
    folder = RunFolder.open(config)
    update_console_handler(colored=sys.stdout.isatty())
    with folder.led():
        _warn_of_shadow_environment()
        log(INFO, "run folder: %s", folder.path)
        run = {"name": folder.path.name, "folder": str(folder.path)}
        federation = Federation(grid, config.federation, run)
        federation.gather()
        preprocessing = folder.read_preprocessing(config.fingerprint())
        if preprocessing is None:
            preprocessing = _without_lost_labs(
                federation, lambda: _learn_preprocessing(federation, config)
            )
            folder.write_preprocessing(preprocessing, config.fingerprint())

        if method.objective:
            weights = _train(federation, config, folder, preprocessing)
        else:
            weights = _without_lost_labs(federation, lambda: _learn_pca(federation, preprocessing))
        model = Model(
            weights,
            preprocessing,
            config.method.name,
            unit=bool(method.objective),
            scale=config.data.scale,
            local_norm=config.method.local_norm,
        )
        folder.write_model(model)
        folder.write_curves(config.method.alpha if method.pull == "fedsc" else None)

        federation.welcome()  # a lab that is back has clusters to get
        clustering = _without_lost_labs(federation, lambda: cluster(federation, config, model))
        if clustering is not None:
            folder.write_clusters(clustering.found.centres, clustering.found.sizes)
        leak = _leak(federation, config)
        if leak:
            log(WARNING, "%s", leak)
        warnings = [leak] if leak else []
        scores: dict[str, Any] = {
            "pooled": pooled_scores(federation, config, model),
            "federated": None if clustering is None else clustering.scores,
            "config": config.to_mapping(),
            "warnings": warnings,
        }
        folder.write_json("scores.json", scores)
        finish(federation, config, model, clustering, warnings)
        log(INFO, "scores: %s", _in_words(scores["pooled"] or scores["federated"] or {}))
        log(INFO, "run folder: %s", folder.path)


def _learn_preprocessing(federation: Federation, config: Config) -> Preprocessing:
    options, labs = config.data, federation.labs
    vocabulary = agree(
        {lab: about.genes for lab, about in labs.items()},
        options.genes,
        read_reference(Path(options.reference_genes)) if options.genes == "reference" else None,
        options.min_shared_genes,
    )
    if note := case_note({lab: about.genes for lab, about in labs.items()}):
        log(WARNING, "%s", note)
    kind = next(iter(labs.values())).kind
    log(INFO, "%d genes in common; values are %s", len(vocabulary), _KINDS[kind])
    names = RecordDict({"vocabulary": ConfigRecord({"names": pack_names(vocabulary)})})
    ask = federation.ask("expression", names, no_expression(vocabulary, kind))
    return learn_preprocessing(ask, vocabulary, kind, options)


_KINDS = {
    "counts": "raw counts: scaled to one library size, then log1p",
    "lognorm": "log-normalised already: taken as they are",
}


def _train(
    federation: Federation, config: Config, folder: RunFolder, preprocessing: Preprocessing
) -> Arrays:
    method = method_of(config.method)
    fingerprint = config.fingerprint()
    initial = _initial_weights(config, len(preprocessing.genes))
    state = load_checkpoint(folder.checkpoint, fingerprint, initial) if config.run.resume else None
    if state is None:
        state = ServerState(0, initial)
    else:
        log(INFO, "resuming after round %d", state.round, extra={"round": state.round})
    folder.forget_metrics_after(state.round)

    def after_round(state: ServerState, result: RoundResult) -> None:
        rows = result.rows()
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

    records = pack_preprocessing(preprocessing)
    return train(federation, config, method.pull, state, records, after_round).weights


_COLLAPSED = 0.01


def _initial_weights(config: Config, n_genes: int) -> Arrays:
    from fedsc.rng import torch_generator

    objective = load_objective(method_of(config.method))
    weights = objective.init(n_genes, config.method, torch_generator(config.run.seed, "init"))
    return {name: tensor.numpy() for name, tensor in weights.items()}


def _learn_pca(federation: Federation, preprocessing: Preprocessing) -> Arrays:
    from fedsc.federated.pca import as_encoder, learn_pca

    records = pack_preprocessing(preprocessing)
    return as_encoder(learn_pca(federation.ask("cells", records, no_cells(preprocessing)), 50))


def _leak(federation: Federation, config: Config) -> str:
    """Say so where per-lab statistics hand the labels of a label-made split to the clustering."""
    from_labels = config.split.scheme in ("subtypes", "dirichlet")
    simulated = all(about.simulated for about in federation.labs.values())
    per_lab = [
        name
        for name, used in {
            "scale = 'lab'": config.data.scale == "lab",
            "local-norm": config.method.local_norm,
        }.items()
        if used
    ]
    if not (from_labels and simulated and per_lab):
        return ""
    return (
        f"{' and '.join(per_lab)} on a split made from labels ({config.split.scheme}): a lab is a "
        "set of labels here, so per-lab statistics leak them and the scores mean nothing; use "
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
