"""Selectors without training, one method a file."""
