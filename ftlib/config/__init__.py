"""Pydantic models, one module per job, and the YAML + `key.path=value` loader. Imports no ray, no torch."""
