"""Samples, their sources, and the domains made of them."""
