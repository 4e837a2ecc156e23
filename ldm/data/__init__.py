"""Captioned images from anywhere."""
