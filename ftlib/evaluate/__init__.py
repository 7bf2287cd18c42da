"""Scores with intervals, comparison with the base model, and gates."""
