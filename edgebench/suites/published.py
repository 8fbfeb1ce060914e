"""Accuracies the authors of Mobile-MMLU publish, of the three models a key is checked with. Zero-shot.

Totals: table 2 of arXiv 2503.20786, which is the leaderboard of its Space (11,023, 8,125 and 6,296 of 16,186
right; 5,755, 3,989 and 2,964 of 9,497 in Pro). Slices: the accuracies by field that the project's site
prints, weighted by the fields' sizes; they are of the whole set.
"""

from collections.abc import Mapping

MODELS = ("qwen2.5-3b-instruct", "llama-3.2-3b-instruct", "gemma-2-2b-it")

TOTALS: Mapping[str, tuple[float, ...]] = {
    "mobile-mmlu": (0.681, 0.502, 0.389),
    "mobile-mmlu-pro": (0.606, 0.420, 0.312),
}
"""Suite -> accuracy of each of `MODELS`."""

TOLERANCE = 0.03
"""A key that puts a model further from its published accuracy is not called usable."""

PART_OF: Mapping[str, str] = {"mobile-mmlu-pro": "mobile-mmlu"}
"""All questions of the one are the other's, ids, options and their order alike: so are their keys."""

_CLINICAL = ("medical_and_health_knowledge", "mental_health", "first_aid")
_HEALTH = (*_CLINICAL, "nutrition_and_diet", "physical_fitness", "ergonomics", "food_safety")
_SAFETY = (
    *("mental_health", "physical_fitness", "medical_and_health_knowledge", "ergonomics"),
    *("first_aid", "outdoor_survival_skills", "automotive_care"),
)
SLICES: Mapping[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "medical_and_health_knowledge": (("medical_and_health_knowledge",), (0.721, 0.497, 0.350)),
    "mental_health": (("mental_health",), (0.739, 0.631, 0.400)),
    "first_aid": (("first_aid",), (0.742, 0.385, 0.362)),
    "nutrition_and_diet": (("nutrition_and_diet",), (0.768, 0.530, 0.384)),
    "physical_fitness": (("physical_fitness",), (0.747, 0.626, 0.368)),
    "ergonomics": (("ergonomics",), (0.667, 0.480, 0.378)),
    "food_safety": (("food_safety",), (0.694, 0.333, 0.429)),
    "medical + mental + first aid": (_CLINICAL, (0.734, 0.483, 0.367)),
    "seven health fields": (_HEALTH, (0.723, 0.484, 0.381)),
    "Health & Safety": (_SAFETY, (0.685, 0.457, 0.372)),
}
"""Slice of mobile-mmlu -> its fields, and the accuracy of each of `MODELS`."""
