"""What stands under both stages; here, the config as one typed tree."""

__version__ = "0.1.0"
