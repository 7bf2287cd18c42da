"""Names in a run's folder, and beside it in the folder of runs."""

CONFIG = "config.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
BEST = "BEST"
ADAPTER = "adapter"
MODEL = "model"

TOKENS = ".tokens"
"""Packed splits, shared by all runs of a folder."""
RAY = ".ray"
"""Ray Train's own files."""
