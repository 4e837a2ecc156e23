"""Runs, checkpoints, optimizers, averages."""
