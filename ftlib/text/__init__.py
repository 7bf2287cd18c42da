"""Algorithms on text, without Ray and without torch: PII, MinHash, clusters, quality, metrics."""
