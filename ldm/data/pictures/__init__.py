"""From bytes to pixels, whatever the format."""
