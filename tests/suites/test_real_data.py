from collections import Counter
from pathlib import Path

from edgebench.suites.definition import find_definition
from edgebench.suites.groups import limited, ordered_groups
from edgebench.suites.loader import load_dev, load_suite


def test_mmlu_medical_is_the_published_one(shared_data: Path) -> None:
    suite = load_suite("mmlu-medical", shared_data)
    assert suite.verified
    assert suite.id == "mmlu-medical@1"
    assert len(suite.questions) == 1089 == find_definition("mmlu-medical").n_questions
    assert Counter(q.subject for q in suite.questions) == {
        file.subject: file.n_questions for file in find_definition("mmlu-medical").files
    }
    assert {len(q.choices) for q in suite.questions} == {4}


def test_a_part_of_mmlu_medical_holds_each_subject_in_proportion(shared_data: Path) -> None:
    suite = load_suite("mmlu-medical", shared_data)
    part = Counter(q.subject for group in limited(ordered_groups(suite), 200) for q in group)
    whole = Counter(q.subject for q in suite.questions)
    assert part.keys() == whole.keys()
    assert all(abs(part[subject] - 200 / 1089 * n) <= 16 for subject, n in whole.items())


def test_the_folder_of_the_subject_files_will_do_too(shared_data: Path) -> None:
    assert load_suite("mmlu-medical", shared_data / "mmlu" / "test").verified


def test_dev_questions_are_none_of_those_scored(shared_data: Path) -> None:
    dev = load_dev("mmlu-medical", shared_data)
    scored = {(q.text, q.choices) for q in load_suite("mmlu-medical", shared_data).questions}
    assert 20 < len(dev) < 30  # of five a subject; the published files share some with the test set
    assert not scored & {(q.text, q.choices) for q in dev}
