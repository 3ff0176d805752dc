"""The results go to the labs: each writes them into a copy of its own file."""

from collections.abc import Mapping
from logging import INFO, WARNING

import numpy as np
from flwr.common import log

import fedsc
from fedsc.config import Config
from fedsc.model import Model
from protocol.checks import BadReply
from protocol.embed import pack_model
from protocol.finish import Results, pack_results, read_finished
from protocol.records import EMBED, FINISH
from server_app.analysis import Analysis, read_all_embedded
from server_app.federation import Federation

_MARKERS = 100  # genes of each cluster that a lab's file holds


def finish(
    federation: Federation, config: Config, model: Model, analysis: Analysis, warnings: list[str]
) -> None:
    """Let every lab write its results into a copy of its own file; simulated ones if wanted.

    A real lab that is busy still is waited for, and one that was left out of the clusters embeds
    its cells first. A lab that cannot is told of in the log; it can do so later with
    ``fedsc embed``.
    """
    labs = [
        lab for lab, about in federation.labs.items() if config.run.files or not about.simulated
    ]
    if not labs:
        return
    options = config.analysis
    by_kmeans = analysis.clusters.centres is not None
    about: dict[str, str | int | float] = {
        "run": federation.run["name"],
        "method": config.method.name,
        "rounds": config.training.rounds if model.unit else 0,
        "seed": config.run.seed,
        "labs": len(federation.labs),
        "cells": sum(told.cells for told in federation.labs.values()),
        "genes": len(model.preprocessing.genes),
        "version": fedsc.__version__,
        "model": model.digest,
        "k": analysis.clusters.k,
        "clusters": "federated k-means" if by_kmeans else "graph of the pool",
        "integrated": "harmony" if analysis.integration.harmony else "none",
    }
    if not by_kmeans:
        about["resolution"] = options.resolutions[0]
    if warnings:
        about["warnings"] = "; ".join(warnings)
    results = Results(
        analysis.clusters,
        analysis.markers.first(_MARKERS),
        np.array(model.preprocessing.vocabulary, dtype=object),
        about,
        {name: value for name, value in config.to_mapping().items() if name not in _OF_THE_SERVER},
    )
    served = _tell_results(federation, labs, results)
    for late in federation.stragglers(served):
        if not analysis.integration.harmony:  # or it would lose its correction
            answers = federation.tell(late, EMBED, pack_model(model))
            _, failures = read_all_embedded(federation, answers)
            _warn(failures)
            late = [lab for lab in late if lab not in failures]
        _tell_results(federation, late, results)


_OF_THE_SERVER = ("output", "resume")  # options that say where its files are


def _tell_results(federation: Federation, labs: list[str], results: Results) -> list[str]:
    """Tell labs the results; list those that have them, or never will."""
    answers = federation.tell(labs, FINISH, pack_results(results))
    failures, served = dict(answers.failures), []
    for lab, reply in answers.records.items():
        try:
            file = read_finished(reply, lab)
        except BadReply as bad:
            failures[lab] = str(bad)
            continue
        served.append(lab)
        log(
            INFO,
            "lab %s has its results in a copy of its own file: %s",
            lab,
            file,
            extra={"lab": lab, "file": file},
        )
    _warn(failures)
    return [*served, *answers.final]


def _warn(failures: Mapping[str, str]) -> None:
    """Tell of labs that have no results in their own files, by lab."""
    for lab, reason in failures.items():
        log(
            WARNING,
            "lab %s could not write its results: %s; it can do so with fedsc embed, from this "
            "run's folder",
            lab,
            reason,
            extra={"lab": lab, "reason": reason},
        )
