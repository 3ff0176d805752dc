"""Centralised methods, one a file, one signature: what federated training is held against."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsc.baselines.method import Fit, Fitted, Settings
    from fedsc.data.expression import Expression

MODULES = {
    "pca": "fedsc.baselines.pca",
    "leiden": "fedsc.baselines.leiden",
    "nmf": "fedsc.baselines.nmf",
    "contrastive-sc": "fedsc.baselines.contrastive_sc",
    "mask-sc": "fedsc.baselines.mask_sc",
    "mask-sc-mlp": "fedsc.baselines.mask_sc_mlp",
    "scdeepcluster": "fedsc.baselines.scdeepcluster",
    "sczidesk": "fedsc.baselines.sczidesk",
}
"""Module of every method; it has ``fit`` and ``PRESETS``."""


def _lazily(module: str) -> "Fit":
    """Import the method when it is called: torch and scikit-learn cost seconds."""

    def fit(expression: "Expression", settings: "Settings") -> "Fitted":
        fitted: Fitted = import_module(module).fit(expression, settings)
        return fitted

    return fit


METHODS: Mapping[str, "Fit"] = MappingProxyType(
    {name: _lazily(module) for name, module in MODULES.items()}
)
"""Every centralised method by name."""
