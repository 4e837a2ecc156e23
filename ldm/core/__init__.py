"""Errors, files, keyed randomness: what everything stands on."""
