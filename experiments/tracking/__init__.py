"""Loggers of the commands: Weights & Biases, TensorBoard or none."""
