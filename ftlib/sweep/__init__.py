"""Hyperparameter search: Optuna over Ray Train runs."""
