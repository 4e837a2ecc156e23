"""The model that is measured."""
