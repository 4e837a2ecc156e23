"""A run's folder, as it is read."""
