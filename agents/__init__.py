"""Who plays: selectors, agents and their training."""
