"""From texts to gradient sketches."""
