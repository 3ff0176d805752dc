"""Centralised methods, one a file with one common signature; what federated training is held against."""
