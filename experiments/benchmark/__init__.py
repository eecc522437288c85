"""Who picks best? Every selector and agent on the same episodes: `ogs benchmark`."""
