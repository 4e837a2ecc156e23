"""All figures of a model."""
