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

__all__ = ["client_app", "fedsc", "scanpy", "server_app", "simulations", "sklearn", "torch"]
