"""Selectors without training, one method per module."""
