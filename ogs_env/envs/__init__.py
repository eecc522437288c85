"""Gymnasium environments made of bundles."""
