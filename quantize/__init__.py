"""Artifacts: get a model file, say what is inside it, make other levels of it."""
