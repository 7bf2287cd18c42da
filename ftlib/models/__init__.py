"""Find, load, adapt and export a model and its tokenizer."""
