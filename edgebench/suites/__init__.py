"""Questions: load a suite's data, order and group it, build prompts, score answers."""
