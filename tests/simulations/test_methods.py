"""Every method and every pull in a whole run: what labs were sent, what became of it."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from client_app import app as client
from fedsc.data.preprocess import transform
from fedsc.data.reading.how import ReadAs
from fedsc.data.reading.read import read
from fedsc.federated.preprocessing import fit_preprocessing
from fedsc.methods import METHODS, load_objective, method_of
from fedsc.model import load_model
from fedsc.rng import random_bits, torch_generator
from fedsc.ssl.views import masked_views
from fedsc.training import batches
from protocol import records

TRAINED = [name for name, method in METHODS.items() if method.objective]


def initial_weights(config):
    objective = load_objective(method_of(config.method))
    weights = objective.init(
        config.data.n_genes, config.method, torch_generator(config.run.seed, "init")
    )
    return {name: tensor.numpy() for name, tensor in weights.items()}


def assert_trained(left, config):
    """Hold a run against what anything that learns must do."""
    start, end = initial_weights(config), left.weights
    assert start.keys() == end.keys()
    for name, array in end.items():
        assert np.isfinite(array).all(), name
        if name.endswith("weight") and array.ndim == 2:
            # A step of 0.032 moves weights a little: they are other numbers, of the same size.
            moved = np.linalg.norm(array - start[name]) / np.linalg.norm(start[name])
            assert 1e-4 < moved < 1, f"{name} moved by {moved:.2g} of its length"
    losses = np.array([row["loss"] for row in left.rows])
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses), "the loss stands still"
    embedding = embed(left, config)
    assert embedding.shape == (96, 60)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    # 0 for a collapsed embedding, 1 for directions that are spread evenly.
    assert math.sqrt(embedding.var(axis=0).sum()) > 0.2, "the embedding has collapsed"
    assert all(row["embedding_std"] > 0.2 for row in left.rows)


def embed(left, config):
    cells = read(config.data.dataset, ReadAs(label_key=config.data.label_key))
    return load_model(left.folder).embed(cells)


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_runs(unlabelled, change, lead, method):
    config = change(unlabelled, method=method, queue=16, rounds=2)
    left = lead(config)
    assert_trained(left, config)
    assert sum(left.scores["graph"]["sizes"]) == 96


def test_federated_pca_is_the_pca_of_the_pool(tiny, change, lead):
    config = change(tiny, method="fedpca")
    left = lead(config)
    cells = read(config.data.dataset, ReadAs(label_key=config.data.label_key))
    x = transform(cells, fit_preprocessing([cells], config.data)).batch(np.arange(96))
    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    embedding = embed(left, config)
    embedding = embedding - embedding.mean(axis=0)
    k = embedding.shape[1]
    np.testing.assert_allclose(np.abs(embedding), np.abs(u * s)[:, :k], atol=1e-3)
    assert not (left.folder / "metrics.jsonl").exists()


BROKEN = """
from fedsc.ssl import byol
from fedsc.ssl.objective import Objective

def never_steps(state, views, descend, options):
    return byol.step(state, views, lambda loss: None, options)

def collapses(state, views, descend, options):
    loss = byol.step(state, views, descend, options)
    last = [n for n in state.shared if n.startswith("encoder.") and n.endswith("bias")][-1]
    state.shared[last].data.fill_(15)
    return loss

def constant_loss(state, views, descend, options):
    return byol.step(state, views, descend, options) * 0 + 1

STEPS = (never_steps, collapses, constant_loss)
OBJECTIVES = {step.__name__: Objective(byol.init, byol.begin, step) for step in STEPS}
globals().update(OBJECTIVES)
"""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("never_steps", "moved by 0 of its length"),
        ("constant_loss", "the loss stands still"),
        ("collapses", "the embedding has collapsed"),
    ],
)
def test_what_every_method_is_held_against_finds_a_broken_one(
    unlabelled, change, lead, tmp_path, monkeypatch, how, words
):
    (tmp_path / "broken_objectives.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    config = change(unlabelled, method=f"broken_objectives:{how}", rounds=2)
    left = lead(config)
    with pytest.raises(AssertionError, match=words):
        assert_trained(left, config)
    told = [warning for warning in left.scores["warnings"] if "has collapsed" in warning]
    assert len(told) == (how == "collapses")


def test_an_objective_from_outside_the_package_takes_one_line(unlabelled, change, lead):
    ours = change(unlabelled, method="fedsc.ssl.simsiam:OBJECTIVE", pull="constant", rounds=2)
    known = change(ours, method="fedsimsiam", run_name="by-name")
    by_path, by_name = lead(ours).weights, lead(known).weights
    assert all(by_path[name].tobytes() == by_name[name].tobytes() for name in by_name)


# What a pull does, from the messages alone


@dataclass
class Sent:
    """Start weights and uploads of a run, by round and lab, as they crossed the wire."""

    starts: dict = field(default_factory=dict)
    uploads: dict = field(default_factory=dict)
    cells: dict = field(default_factory=dict)

    def client(self, message, context):
        reply = client(message, context)
        if message.metadata.message_type == "train":
            round_ = int(message.content["run"]["round"])
            for what, content in ((self.starts, message.content), (self.uploads, reply.content)):
                kind = "start" if what is self.starts else "update"
                for lab in records.labs_in(content, kind):
                    what[round_, lab] = records.unpack_arrays(content[records.key(kind, lab)])
            for lab in records.labs_in(reply.content, "metrics"):
                self.cells[lab] = reply.content[records.key("metrics", lab)]["cells"]
        return reply

    def average(self, round_):
        """Average the uploads of a round by hand."""
        total = sum(self.cells.values())
        return {
            name: sum(
                self.cells[lab] / total * self.uploads[round_, lab][name].astype(float)
                for lab in self.cells
            )
            for name in self.uploads[round_, "lab-0"]
        }


def is_parameter(name):
    return not name.endswith(("running_mean", "running_var"))


def distance(one, other):
    """‖one − other‖ over encoder and projector, without batch norm's statistics."""
    names = [n for n in one if n.startswith(("encoder.", "projector.")) and is_parameter(n)]
    return math.sqrt(sum(np.sum((one[n].astype(float) - other[n]) ** 2) for n in names))


ALPHA = 0.01
RULES = {
    "fedsc": lambda d, first_d: min(ALPHA / d, 1),
    "fedema": lambda d, first_d: min(0.7 / first_d * d, 1),
    "constant": lambda d, first_d: 0.5,
    "none": lambda d, first_d: 0.0,
}


@pytest.mark.parametrize(
    ("method", "pull"),
    [
        ("fedsc", "fedema"),
        *(pytest.param("fedsimclr", pull, marks=pytest.mark.slow) for pull in RULES),
    ],
)
def test_any_method_runs_with_any_pull(unlabelled, change, lead, method, pull):
    sent = Sent()
    left = lead(change(unlabelled, method=method, pull=pull, alpha=ALPHA), app=sent.client)
    rows, first_d, mus = left.by_round, {}, []
    for (round_, lab), start in sent.starts.items():
        if round_ == 1:
            assert rows[1, lab]["mu"] == 0
            continue
        average, last = sent.average(round_ - 1), sent.uploads[round_ - 1, lab]
        d = distance(average, last)
        mu = RULES[pull](d, first_d.setdefault(lab, d))
        assert d > ALPHA, "else the rule of FedSC is not tried: it keeps all"
        assert rows[round_, lab]["d"] == pytest.approx(d, rel=1e-4)
        assert rows[round_, lab]["mu"] == pytest.approx(mu, rel=1e-4)
        mus.append(mu)
        for name, array in start.items():
            share = mu if is_parameter(name) else 0
            slow = share * last[name].astype(float) + (1 - share) * average[name]
            np.testing.assert_allclose(array, slow, rtol=1e-4, atol=1e-6, err_msg=name)
        if pull == "fedsc":  # eq. 4 is a projection onto the ball of radius α
            assert distance(start, average) == pytest.approx(ALPHA, rel=1e-3)
    assert len(mus) == 8
    if pull != "none":
        assert all(0 < mu <= 1 for mu in mus)
        assert min(mus) < 0.9


def test_one_lab_without_pull_is_plain_local_training(unlabelled, change, lead):
    config = change(unlabelled, method="fedbyol", labs=1, rounds=2, local_epochs=2)
    left = lead(config)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        weights = train_plainly(config)
    finally:
        torch.set_num_threads(before)
    assert left.weights.keys() == weights.keys()
    for name, array in left.weights.items():
        assert array.tobytes() == weights[name].numpy().tobytes(), name


def train_plainly(config):
    expression = read(config.data.dataset, ReadAs(label_key=config.data.label_key))
    cells = transform(expression, fit_preprocessing([expression], config.data))
    objective = load_objective(method_of(config.method))
    weights = objective.init(cells.n_genes, config.method, torch_generator(0, "init"))
    private = {}
    for round_ in range(1, config.training.rounds + 1):
        state = objective.begin(weights, private, cells.n_cells, config.method, torch.Generator())
        optimizer = torch.optim.SGD(  # made anew: momentum does not outlive a round
            state.trainable(), lr=0.032, momentum=0.5, weight_decay=5e-4, fused=True
        )

        def descend(loss, optimizer=optimizer):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        order = torch_generator(0, "batches", "lab-0", round_)
        masks = random_bits(0, "masks", "lab-0", round_)
        for _ in range(config.training.local_epochs):
            for rows in batches(cells.n_cells, 8, order):
                x = torch.from_numpy(cells.batch(rows))
                views = masked_views(x, 0.9, masks)
                objective.step(state, views, descend, config.method)
        weights = {name: tensor.detach().clone() for name, tensor in state.shared.items()}
        private = state.private
    return weights
