"""The ServerApp: the phases of a run, in order (``docs/architecture.md``, the life of a run)."""

import sys
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.common import log
from flwr.common.logger import update_console_handler
from flwr.serverapp import Grid, ServerApp

from fedsc.config import Config
from fedsc.data.genes import match
from fedsc.data.preprocess import Preprocessing
from fedsc.errors import ConfigError, FedscError
from fedsc.federated.averaging import Arrays
from fedsc.methods import load_objective, method_of
from fedsc.model import Model
from fedsc.report.run import write_report
from fedsc.run_files import SCORES
from fedsc.threads import one_blas_thread
from fedsc.versions import versions
from protocol.records import pack_preprocessing
from server_app.analysis import analyse
from server_app.checkpoint import ServerState, load_checkpoint, save_checkpoint
from server_app.clustering import refuse_k
from server_app.federation import Federation
from server_app.finish import finish, without_files
from server_app.floor import pca, pooled, score_floor
from server_app.identity import Identities
from server_app.preparation import Quality, control_quality, prepare
from server_app.remarks import newcomers, remarks
from server_app.run_folder import RunFolder
from server_app.split import (
    hold_cells,
    leaks,
    left_out,
    refuse_integration,
    unshared_types,
)
from server_app.strategy import RoundResult, train
from server_app.summary import summary

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Lead a run: describe, statistics, train, cluster, score, finish."""
    try:
        config = Config.from_mapping(context.run_config)
        method = method_of(config.method)
        if method.objective:
            load_objective(method)  # a bad name stops the run here, before any lab works
        folder = RunFolder.open(config)
    except FedscError as error:  # no run folder has a log of it
        log(ERROR, "the run is refused: %s", error)
        raise
    update_console_handler(colored=sys.stdout.isatty())
    with folder.led(), one_blas_thread():
        _warn_of_shadow_environment()
        started = {"folder": str(folder.path), "flower_run": str(context.run_id)}
        log(INFO, "run folder: %s", folder.path, extra=started)
        run = {"name": folder.path.name, "folder": str(folder.path)}
        identities = Identities.here(context.run_id)
        federation = Federation(
            grid, config.federation, run, config.split.min_cells, identities=identities
        )

        def begin(phase: str) -> None:
            """Say which phase begins; ``fedsc status`` and the report read it."""
            log(INFO, "phase: %s", phase, extra={"phase": phase, **vars(federation.traffic)})

        begin("gathering the labs")
        federation.gather()
        hold_cells(federation, config, folder)
        for remark in remarks(federation, config):  # in time to stop the run
            log(WARNING, "%s", remark)
        refuse_integration(federation, config)
        begin("statistics")
        quality = _quality(federation, config, folder)
        refuse_k(federation, config)
        preprocessing = folder.read_preprocessing(config.fingerprint())
        if preprocessing is None:
            rare = quality.rare if quality else ()
            preprocessing = federation.phase(lambda: prepare(federation, config, rare))
            folder.write_preprocessing(preprocessing, federation.labs, config.fingerprint())
        agreed = folder.read_agreed(config.fingerprint())
        for remark in newcomers(federation, agreed):
            log(WARNING, "%s", remark)

        state = _first_state(config, folder, preprocessing) if method.objective else None
        folder.go_on()
        begin("training" if state else "principal components")
        if state:
            weights = _train(federation, config, folder, preprocessing, state)
        else:
            weights = pca(federation, preprocessing)
        model = Model(
            weights,
            preprocessing,
            config.method.name,
            unit=bool(method.objective),
            scale=config.data.scale,
            local_norm=config.method.local_norm,
        )
        folder.write_model(model)
        if config.run.files:
            folder.write_curves(config.method.alpha if method.pull == "fedsc" else None)

        if method.objective:
            begin("floor")
        floor = score_floor(federation, config, model) if method.objective else None
        begin("clusters, markers and types")
        analysis = federation.phase(lambda: analyse(federation, config, model))
        folder.write_analysis(analysis, preprocessing.vocabulary)
        warnings = [
            *federation.absent,
            *remarks(federation, config),
            *newcomers(federation, agreed),
            *left_out(federation, config),
            *leaks(federation, config),
            *unshared_types(federation, config),
            *_of_collapse(folder),
            *analysis.found.warnings,
        ]
        for warning in warnings:
            log(WARNING, "%s", warning)
        begin("scores")
        scores: dict[str, Any] = {
            **analysis.found.scores,
            **pooled(federation, config, model, analysis.integration),
            "floor": floor,
            "integration": analysis.integration.about,
            "quality": quality.told(federation) if quality else None,
            "questions": dict(federation.questions),
            "labs": _described(federation, preprocessing),
            "vocabulary": len(preprocessing.vocabulary),
            "versions": versions(*_PACKAGES),
            "config": config.to_mapping(),
            "warnings": warnings,
            "without_files": {},
        }
        folder.write_json(SCORES, scores)
        begin("files")
        if missing := finish(federation, config, model, analysis, warnings):
            told = without_files(missing, folder.path, simulated=federation.simulated)
            for warning in told:
                log(WARNING, "%s", warning)
            folder.write_json(
                SCORES, scores | {"warnings": warnings + told, "without_files": missing}
            )
        traffic = federation.traffic
        log(
            INFO,
            "messages carried %.1f MiB to the labs and %.1f MiB back",
            traffic.to_labs / 2**20,
            traffic.from_labs / 2**20,
            extra=vars(traffic),
        )
        if config.run.files:
            begin("report")
            _report(folder.path)
        for line in summary(scores, folder.path):
            log(INFO, "%s", line)


def _report(folder: Path) -> None:
    """Write the report; the run is done, whatever becomes of a page about it."""
    try:
        write_report(folder)
    except Exception as error:
        log(WARNING, "no report (%s); `fedsc report %s` tries again", error, folder)


_PACKAGES = ("flwr", "torch", "numpy", "scikit-learn", "anndata")


def _described(
    federation: Federation, preprocessing: Preprocessing
) -> dict[str, dict[str, int | str]]:
    """Tell what each lab brought, and how many of the chosen genes it has measured."""
    return {
        lab: {
            "cells": about.cells,
            "genes": len(about.genes),
            "chosen": len(preprocessing.genes),
            "measured": int((match(about.genes, preprocessing.genes) >= 0).sum()),
        }
        for lab, about in federation.labs.items()
    }


def _quality(federation: Federation, config: Config, folder: RunFolder) -> Quality | None:
    """Leave out the cells that are not good enough; a resumed run leaves out the same."""
    if not config.data.controls_quality:
        return None
    quality = folder.read_quality(config.fingerprint())
    if quality is None:
        quality = federation.phase(lambda: control_quality(federation, config.data))
        folder.write_quality(quality, config.fingerprint())
    if config.data.judges_cells:
        federation.filter_cells(quality.cell_filter)
    return quality


def _first_state(config: Config, folder: RunFolder, preprocessing: Preprocessing) -> ServerState:
    """Give the state that training begins with, or goes on from.

    Raises
    ------
    ConfigError
        If more rounds are done than are wanted.
    RunError
        If there are checkpoints and none can be read.
    """
    initial = _initial_weights(config, len(preprocessing.genes))
    state = None
    if config.run.resume:
        state = load_checkpoint(folder.checkpoint, config.fingerprint(), initial)
    if state is None:
        return ServerState(0, initial)
    if state.round > config.training.rounds:
        raise ConfigError(
            f"option rounds = {config.training.rounds}: {state.round} rounds are done already; "
            "resume with as many or more"
        )
    log(INFO, "resuming after round %d", state.round, extra={"round": state.round})
    return state


def _train(
    federation: Federation,
    config: Config,
    folder: RunFolder,
    preprocessing: Preprocessing,
    state: ServerState,
) -> Arrays:
    method = method_of(config.method)
    fingerprint = config.fingerprint()
    folder.forget_metrics_after(state.round)

    def after_round(state: ServerState, result: RoundResult) -> None:
        rows = result.rows()
        folder.append_metrics(rows)
        save_checkpoint(folder.checkpoint, state, fingerprint)
        for row in _collapsed(rows):
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


def _collapsed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("embedding_std", 1.0) < _COLLAPSED]


def _of_collapse(folder: RunFolder) -> list[str]:
    """Warn of labs whose embedding had collapsed when training ended."""
    labs = [str(row["lab"]) for row in _collapsed(folder.last_metrics())]
    if not labs:
        return []
    return [
        f"the embedding of {', '.join(labs)} has collapsed (spread below {_COLLAPSED:g}): cells "
        "look alike there and clusters mean nothing; try a lower learning-rate or another method"
    ]


def _initial_weights(config: Config, n_genes: int) -> Arrays:
    from fedsc.rng import torch_generator

    objective = load_objective(method_of(config.method))
    weights = objective.init(n_genes, config.method, torch_generator(config.run.seed, "init"))
    return {name: tensor.numpy() for name, tensor in weights.items()}


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
