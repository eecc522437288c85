"""Samples, their sources, and the domains built from them."""
