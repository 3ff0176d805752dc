"""What the processes of a suite need, imported once before they are forked."""

import scanpy
import sklearn.cluster
import sklearn.metrics
import torch

import client_app
import fedsc.baselines.contrastive_sc
import fedsc.training
import server_app
import simulations.inprocess
from simulations.bench.provenance import code_digest

code_digest("")  # now, as this code is what the forked processes will run

__all__ = ["client_app", "fedsc", "scanpy", "server_app", "simulations", "sklearn", "torch"]
