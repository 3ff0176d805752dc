"""Figures, as matplotlib ``Figure`` objects: nothing is shown or kept in global state."""
