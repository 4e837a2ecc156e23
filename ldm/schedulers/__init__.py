"""A process by name, and what diffusers calls the same."""
