"""The results go to the labs: each writes them into a copy of its own file."""

import shlex
from collections import defaultdict
from collections.abc import Mapping
from logging import INFO, WARNING
from pathlib import Path

import numpy as np
from flwr.common import log

import fedsc
from fedsc.config import OF_SIMULATION, Config
from fedsc.model import Model
from protocol.checks import BadReply
from protocol.embed import pack_model
from protocol.finish import Results, pack_results, read_finished
from protocol.records import EMBED, FINISH
from server_app.analysis import Analysis, read_all_embedded
from server_app.federation import Federation

_MARKERS = 100  # genes of each cluster that a lab's file holds
_UNASKED = "left out of the clusters, and away or busy until the end"


def finish(
    federation: Federation, config: Config, model: Model, analysis: Analysis, warnings: list[str]
) -> dict[str, str]:
    """Let every lab write its results into a copy of its own file; simulated ones if wanted.

    A real lab that is busy still is waited for, and one that was left out of the clusters embeds
    its cells first. A lab that cannot is told of in the log.

    Returns
    -------
    dict
        Labs without such a copy, sorted by name, and why.
    """

    def wanted() -> list[str]:
        labs = federation.labs.items()
        return [lab for lab, about in labs if config.run.files or not about.simulated]

    labs = wanted()
    if not labs:
        return {}
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
    not_told = {*_OF_THE_SERVER, *(() if federation.simulated else OF_SIMULATION)}
    results = Results(
        analysis.clusters,
        analysis.markers.first(_MARKERS),
        np.array(model.preprocessing.vocabulary, dtype=object),
        about,
        {name: value for name, value in config.to_mapping().items() if name not in not_told},
    )
    missing, final = _tell_results(federation, labs, results)
    asked = set(labs)
    for late in federation.stragglers([lab for lab in labs if lab not in missing.keys() - final]):
        asked.update(late)
        failures: dict[str, str] = {}
        if not analysis.integration.harmony:  # or it would lose its correction
            answers = federation.tell(late, EMBED, pack_model(model))
            _, failures = read_all_embedded(federation, answers)
            _warn(failures)
        can = [lab for lab in late if lab not in failures]
        failures |= _tell_results(federation, can, results)[0]
        missing = {lab: why for lab, why in missing.items() if lab not in late} | failures
    unasked = {lab: _UNASKED for lab in wanted() if lab not in asked}
    _warn(unasked)
    return dict(sorted((missing | unasked).items()))


def without_files(missing: Mapping[str, str], folder: Path, *, simulated: bool) -> list[str]:
    """Say which labs have no copy with their results, why, and what to do."""
    of_reason = defaultdict[str, list[str]](list)
    for lab, why in missing.items():
        of_reason[why].append(lab)
    run = shlex.quote(str(folder))
    how = (
        f"when that is put right: fedsc run --resume {run}"
        if simulated
        else f"when that is over, in the lab: fedsc embed FILE --model {run} -o OUT.h5ad"
    )
    return [
        f"no file with the results at lab {', '.join(labs)} ({why}); {how}"
        for why, labs in of_reason.items()
    ]


_OF_THE_SERVER = ("output", "resume")  # options that say where its files are


def _tell_results(
    federation: Federation, labs: list[str], results: Results
) -> tuple[dict[str, str], frozenset[str]]:
    """Tell labs the results; give by lab why it has none, and which labs never will."""
    answers = federation.tell(labs, FINISH, pack_results(results))
    failures = dict(answers.failures)
    for lab, reply in answers.records.items():
        try:
            file = read_finished(reply, lab)
        except BadReply as bad:
            failures[lab] = str(bad)
            continue
        log(
            INFO,
            "lab %s has its results in a copy of its own file: %s",
            lab,
            file,
            extra={"lab": lab, "file": file},
        )
    _warn(failures)
    return failures, answers.final


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
