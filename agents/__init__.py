"""Selectors, agents and their training."""
