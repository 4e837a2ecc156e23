"""The `ldm` command: a file each."""
