"""Does the environment tell the truth about real fine-tuning? `ogs fidelity`."""
