"""The generation engine behind evaluation and serving."""
