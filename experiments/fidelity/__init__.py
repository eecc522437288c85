"""Study of how well the environments predict real fine-tuning: `ogs fidelity`."""
