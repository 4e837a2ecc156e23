"""Stage 1's model, and the cache of its latents."""
