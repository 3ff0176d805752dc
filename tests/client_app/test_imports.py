"""Flower starts a process for every message: what it imports is the cost of a round."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_round_of_training_imports_no_compiler_and_no_reader():
    script = """
import sys
import numpy as np
from scipy.sparse import csr_matrix
import client_app.main
assert not {"torch", "pandas", "anndata", "h5py"} & set(sys.modules)
from fedsc.config import Config
from fedsc.data.preprocess import CellMatrix
from fedsc.methods import load_objective, method_of
from fedsc.rng import torch_generator
from fedsc.training import train_lab
config = Config.of(local_epochs=1, batch_size=4)
objective = load_objective(method_of(config.method))
start = {n: t.numpy() for n, t in objective.init(3, config.method, torch_generator(0, "i")).items()}
some = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32), 10.0, np.ones(3, dtype=bool)
cells = CellMatrix(csr_matrix(np.eye(8, 3, dtype=np.float32)), *some)
train_lab(
    objective, start, {}, cells, config.method, config.training, seed=0, lab="A", round_=1
)
heavy = ("torch._dynamo", "pandas", "anndata", "scanpy", "sklearn", "matplotlib", "h5py")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_question_in_sums_imports_no_torch():
    script = """
import sys
import client_app.main
from client_app.state import load_embedding
from fedsc.federated.answers import answer
heavy = ("torch", "pandas", "anndata", "scanpy", "sklearn", "scipy.linalg", "h5py")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
