"""Engines: open an artifact, tokenize, prefill, decode, give log-likelihoods. Found by entry points."""
