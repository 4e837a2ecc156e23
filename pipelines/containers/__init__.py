"""Folders that stock software reads."""
