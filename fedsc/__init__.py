"""Federated self-supervised clustering of single-cell RNA-seq data: the science, without Flower."""

__version__ = "0.1.0"
