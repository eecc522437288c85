"""Sketching: turn texts into bundles of gradient sketches."""
