"""Which image has which caption."""
