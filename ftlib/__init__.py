"""ftlib: private fine-tuned language models from an enterprise's own records, on Ray."""

__version__ = "0.1.0"
