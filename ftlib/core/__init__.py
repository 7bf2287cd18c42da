"""Errors, logging, storage and fingerprints: what every other package stands on. Imports no ray, no torch."""
