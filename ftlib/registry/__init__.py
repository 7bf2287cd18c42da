"""Manifests, lineage, the model registry (MLflow) and the rules of promotion."""
