"""The ClientApp's handlers: unpack, let ``fedsc`` compute, pack.

A node may host several labs; one that fails answers with an error and the others go on. The
answer says what kind of error, and only such words as are made for others: the text of an error
could quote the lab's data, so it is in the lab's own log alone.

In a deployment Flower starts a process for every message, so a handler imports what it needs
itself: a training message needs torch but no reader of files, a question in sums needs neither.
"""

import time
from collections.abc import Callable
from logging import ERROR, INFO
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from client_app.labs import Lab, hosted_labs, is_simulated
from client_app.sent import record_answer
from client_app.state import (
    KeptEmbedding,
    load_private,
    save_embedding,
    save_private,
)
from fedsc.config import Config
from fedsc.errors import FedscError
from fedsc.federated.averaging import Arrays
from fedsc.methods import load_objective, method_of
from fedsc.threads import one_blas_thread
from protocol.cells import cells_digest
from protocol.quality import unpack_filter
from protocol.records import is_for, key, pack_arrays, unpack_preprocessing
from protocol.replies import pack_error

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Tell each lab's number of cells, genes, kind of values and names of its cell types."""
    from protocol.describe import pack_about

    def about(lab: Lab, config: Config) -> RecordDict:
        lab.batches(config.analysis.batch_key)  # or a wrong one would be found after all rounds
        signature = lab.signature(context.run_id, context.node_id)
        left_out = len(lab.whole.cells) - len(lab.expression.cells)
        told = pack_about(lab.expression, lab.siblings, signature, left_out)
        return RecordDict({key("about", lab.name): told})

    return _for_each_lab(message, context, about)


@app.query("ask")
def ask(message: Message, context: Context) -> Message:
    """Answer a question about each lab's cells in sums."""
    from client_app.subjects import answer_of
    from protocol.ask import unpack_question

    content = message.content
    question, subject = unpack_question(content)

    def sums(lab: Lab, config: Config) -> RecordDict:
        folder = _folder(lab, content)
        answered = answer_of(lab, question, subject, content, folder, config.data.scale)
        return RecordDict({key("sums", lab.name): pack_arrays(answered)})

    return _for_each_lab(message, context, sums)


@app.query("embed")
def embed(message: Message, context: Context) -> Message:
    """Embed each lab's cells with the global model; the embedding stays in the lab."""
    from fedsc.data.coverage import coverage
    from fedsc.training import embed_cells, with_kept_norm
    from protocol.embed import pack_embedded, unpack_encoder

    content = message.content
    weights, unit = unpack_encoder(content)

    def embedded(lab: Lab, config: Config) -> RecordDict:
        cells = lab.cells(unpack_preprocessing(content), config.data.scale)
        folder = _folder(lab, content)
        private = load_private(folder, round_=config.training.rounds + 1)
        own = with_kept_norm(weights, private)
        x = embed_cells(own, cells, unit=unit, device=_device())
        batches, names = lab.batches(config.analysis.batch_key)
        digest = cells_digest(lab.expression)
        covered = coverage(cells.measured, own["encoder.0.weight"])
        save_embedding(folder, KeptEmbedding(x, batches, digest, covered, names))
        return pack_embedded(lab.name, cells.n_cells, cells.n_blank)

    return _for_each_lab(message, context, embedded)


@app.query("finish")
def finish(message: Message, context: Context) -> Message:
    """Write each lab's results into a copy of its own file."""
    from client_app.finish import write_results
    from protocol.finish import pack_finished, unpack_results

    content = message.content
    results = unpack_results(content)

    def finished(lab: Lab, config: Config) -> RecordDict:
        copy = write_results(lab, _folder(lab, content), results)
        log(INFO, "lab %s: results are in %s", lab.name, copy)
        return pack_finished(lab.name, copy.name)

    return _for_each_lab(message, context, finished)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train each lab that was sent start weights; send back what it shares."""
    from fedsc.federated.upload import encode, without_error
    from fedsc.training import Update, train_lab
    from protocol.train import pack_update, unpack_starts

    content = message.content
    round_, starts = unpack_starts(content)
    preprocessing = unpack_preprocessing(content)
    private: dict[Path, Arrays] = {}
    stacked: dict[str, tuple[Update, float]] = {}

    def together(labs: list[Lab], config: Config) -> None:
        if (device := _device()) == "cpu":
            return
        from client_app.stacked import train_stacked

        def kept(lab: Lab) -> Arrays:
            return without_error(load_private(_folder(lab, content), round_))

        stacked.update(train_stacked(labs, config, starts, kept, preprocessing, round_, device))

    def update(lab: Lab, config: Config) -> RecordDict:
        started = time.perf_counter()
        folder = _folder(lab, content)
        start, kept = starts[lab.name], load_private(folder, round_)
        if lab.name in stacked:
            result, seconds = stacked[lab.name]
        else:
            result = train_lab(
                load_objective(method_of(config.method)),
                start,
                without_error(kept),
                lab.cells(preprocessing, config.data.scale),
                config.method,
                config.training,
                seed=config.run.seed,
                lab=lab.name,
                round_=round_,
                device=_device(),
            )
            seconds = time.perf_counter() - started
        sent, left_out = encode(config.federation.upload, start, result.shared, kept)
        private[folder] = result.private | left_out
        return pack_update(lab.name, sent, result, seconds)

    def keep() -> None:  # no update is sent whose private side is lost
        save_private(round_, private)

    return _for_each_lab(message, context, update, first=together, last=keep)


@one_blas_thread()
def _for_each_lab(
    message: Message,
    context: Context,
    handle: Callable[[Lab, Config], RecordDict],
    first: Callable[[list[Lab], Config], None] = lambda labs, config: None,
    last: Callable[[], None] = lambda: None,
) -> Message:
    """Let each lab that a message is for handle it, and let its answer out.

    ``first`` sees the labs together before, ``last`` is done after: if it fails, all have failed.
    """
    reply, kind = RecordDict(), message.metadata.message_type

    def failed(error: Exception, lab: str) -> RecordDict:
        told = pack_error(error, is_simulated(context.node_config))
        return RecordDict({key("error", lab) if lab else "error": told})

    try:
        config = Config.from_mapping(context.run_config)
        cell_filter = unpack_filter(message.content)
        hosted = hosted_labs(context.node_config, config)
        labs = [lab.filtered(cell_filter) for lab in hosted if is_for(message.content, lab.name)]
    except Exception as error:  # no lab is known yet
        _log(error, "this node failed in %s", kind)
        return Message(failed(error, ""), reply_to=message)
    answers: dict[str, RecordDict] = {}
    try:
        first(labs, config)
        for lab in labs:
            try:
                answers[lab.name] = handle(lab, config)
            except Exception as error:
                _log(error, "lab %s failed in %s", lab.name, kind)
                answers[lab.name] = failed(error, lab.name)
        last()
    except Exception as error:
        _log(error, "this node failed in %s", kind)
        answers = {lab.name: failed(error, lab.name) for lab in labs}
    for lab in labs:
        try:
            if lab.state is not None:  # of a simulated lab nothing leaves any building
                record_answer(_folder(lab, message.content), message, answers[lab.name])
            reply.update(answers[lab.name])
        except Exception as error:
            _log(error, "lab %s sends no answer in %s, since it cannot be recorded", lab.name, kind)
            reply.update(failed(error, lab.name))
    return Message(reply, reply_to=message)


def _log(error: Exception, what: str, *names: object) -> None:
    """Log what has failed and why; of an error that is none of ours, where it arose too."""
    log(ERROR, f"{what}: %s", *names, error, exc_info=not isinstance(error, FedscError))


def _folder(lab: Lab, content: RecordDict) -> Path:
    run = content["run"]
    return lab.folder(str(run["name"]), str(run["folder"]))


def _device() -> str:
    """Choose the GPU this process was given, if any (Flower hides the others)."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
