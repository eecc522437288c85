"""Causal language models: loading, encoding, adapters, losses and training."""
