"""Centralised methods, one a file: what federated training is held against.

A method's module has ``PRESETS``, its options by name, the default first, and
``fit(expression, preset, settings)``, a :data:`~fedsc.baselines.method.Fit`. Everyone who runs a
method does so through :func:`fedsc.baselines.fitting.fit`.
"""

METHODS = {
    "pca": "fedsc.baselines.pca",
    "leiden": "fedsc.baselines.leiden",
    "nmf": "fedsc.baselines.nmf",
    "contrastive-sc": "fedsc.baselines.contrastive_sc",
    "mask-sc": "fedsc.baselines.mask_sc",
    "mask-sc-mlp": "fedsc.baselines.mask_sc_mlp",
    "scdeepcluster": "fedsc.baselines.scdeepcluster",
    "sczidesk": "fedsc.baselines.sczidesk",
}
"""Module of every centralised method; imported when it is run, since torch costs seconds."""
