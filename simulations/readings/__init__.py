"""Other readings of the papers, one a file: objectives beside the core, run as ``module:NAME``.

The suite ``readings`` runs them; ``docs/results/readings.md`` has what they change.
"""
