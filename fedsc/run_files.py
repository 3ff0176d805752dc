"""Names of files in a run folder that several modules know; others stand at their formats.

What they hold: docs/reference/files.md.
"""

CONFIG = "config.json"
PREPROCESSING = "preprocessing.json"
QUALITY = "quality.json"
CELLS = "cells.json"
METRICS = "metrics.jsonl"
LOG_WORDS, LOG = "run.log", "log.jsonl"
MARKERS = "markers.csv"
SCORES = "scores.json"
