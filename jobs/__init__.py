"""Entry points: one job a module, run by `python -m jobs.NAME` or `ray job submit`."""
