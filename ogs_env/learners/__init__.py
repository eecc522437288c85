"""Learners: what changes when a sample is chosen."""
