"""Data preparation on Ray: raw records in, a redacted, deduplicated, split dataset out."""
