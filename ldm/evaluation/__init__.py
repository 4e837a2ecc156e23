"""Figures from tensors, without a pipeline."""
