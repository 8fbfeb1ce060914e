"""The CSV to upload where a suite's authors hold its key: ids and letters, nothing else of the suite."""

import csv
import re
from pathlib import Path

from edgebench.core.paths import atomic_path
from edgebench.results.predictions import asked, predictions
from edgebench.results.records import RunRow
from edgebench.results.store import Store
from edgebench.suites.answer_file import ID_COLUMN, PREDICTION_COLUMN
from edgebench.suites.prompts import LETTERS


def write_submission(store: Store, run: RunRow, folder: Path) -> Path:
    """Write a complete accuracy run's answers, letters in the order the suite stores; the file's path.

    An answer nobody could parse is an empty cell. The file appears whole, in place of an older one.
    """
    name = asked(store, run.suite_id or "").name
    # Ten characters of a run's id are its moment to the millisecond: a name of its own, and one that
    # `runs show` takes.
    parts = (name, run.model, run.quant, run.scorer or "", run.id[:10])
    path = folder / (re.sub(r"[^\w.+-]+", "_", "-".join(parts)) + ".csv")
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow((ID_COLUMN, PREDICTION_COLUMN))
        for question_id, choice in predictions(store, run.id).items():
            writer.writerow((question_id, "" if choice is None else LETTERS[choice]))
    return path
