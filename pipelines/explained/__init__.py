"""How one image comes to be, step by step."""
