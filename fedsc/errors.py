"""Errors meant for a person: each message names the thing, its value and what to do."""


class FedscError(Exception):
    """Base of every error FedSC raises on purpose; the CLI prints it without a traceback."""


class ConfigError(FedscError):
    """An option has a wrong type, an unknown name or a value out of range."""


class DataError(FedscError):
    """An input file cannot be used as single-cell expression data."""


class RunError(FedscError):
    """A federated run cannot go on (too few labs, no valid update, wrong checkpoint)."""
