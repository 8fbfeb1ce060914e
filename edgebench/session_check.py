"""Quantize-and-check, the second half: what a file lost against the reference it was made from.

The reference is evaluated once, in a process of its own, and its log-probabilities wait in a temporary
file. Then every artifact has a process of its own that compares itself with them. Whatever comes is
stored at once; a check that is stored is not done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from edgebench.core.errors import EdgebenchError, ModelError, StoreError
from edgebench.core.hashing import sha256_text
from edgebench.core.tool_env import Tool
from edgebench.core.types import Artifact, Status
from edgebench.results.store import Store
from edgebench.session_cell import Watcher
from edgebench.session_check_scene import (
    CheckRequest,
    ReferenceFailed,
    Scene,
    Subject,
    answers_job,
    engine,
    graded_rows,
    heldout_text,
    reference_told,
    staged,
    subject_of,
    text_job,
    tool_of,
)
from edgebench.session_child import Child


def check_ladder(
    reference: Artifact,
    artifacts: Sequence[Artifact],
    store: Store,
    watcher: Watcher,
    request: CheckRequest,
) -> list[str]:
    """Check artifacts against their reference; what failed, a line each. Read back by `results.damage`.

    The artifacts must be in the store. Raises EdgebenchError when the reference itself can't be used;
    a failure of one artifact is recorded on its check, and the others go on.
    """
    text = (request.text if request.text is not None else heldout_text()).removesuffix("\n")
    subjects = [subject_of(reference, reference, text, request, alone=True)]
    others = {artifact.sha256: artifact for artifact in artifacts if artifact.sha256 != reference.sha256}
    subjects += [subject_of(reference, artifact, text, request) for artifact in others.values()]
    todo = [subject for subject in subjects if store.find_check(subject.key_sha256) is None]
    if not todo:
        watcher.say(f"every file was checked against {reference.label} before")
        return []
    itself = todo[0] if todo[0].artifact.sha256 == reference.sha256 else None
    tools = {s.runner.name: tool_of(s.runner, watcher) for s in [subjects[0], *todo]}
    try:
        with staged(subjects[0], text, tools, request) as scene:
            _announce(todo, itself, scene, reference, watcher)
            if itself:
                _begin(itself, reference, text, scene, store)
            continuations = _reference_pass(subjects[0], itself, scene, tools, store, watcher)
            return _check_all(todo, reference, text, continuations, scene, tools, store, watcher)
    except StoreError:
        raise
    except ReferenceFailed as error:
        if itself and itself.check_id:
            store.end_check(itself.check_id, Status.FAILED, error.message)
        raise ModelError(f"the reference {reference.label}: {error.message}", error.hint) from error


def _announce(
    todo: Sequence[Subject], itself: Subject | None, scene: Scene, reference: Artifact, watcher: Watcher
) -> None:
    n_prompts, n_answers = len(scene.tokens["prompts"]), 2 * len(scene.groups)
    n_steps = len(scene.chunks) + n_prompts + (n_answers if itself else 0)
    for subject in todo:
        n_chunks = min(len(scene.chunks), subject.n_chunks or len(scene.chunks))
        n_steps += n_chunks + n_prompts + (0 if subject is itself else n_answers)
    others = len(todo) - (itself is not None)
    watcher.stage(f"checking {others} files against {reference.label}", n_steps)


def _begin(subject: Subject, reference: Artifact, text: str, scene: Scene, store: Store) -> None:
    subject.check_id = store.begin_check(
        artifact_id=subject.artifact.sha256,
        reference_id=reference.sha256,
        key_sha256=subject.key_sha256,
        evidence=subject.runner.evidence,
        runner=subject.runner.name,
        runner_version=subject.runner.version(),
        config=subject.config,
        text_sha256=sha256_text(text),
        n_chunks=min(len(scene.chunks), subject.n_chunks or len(scene.chunks)),
    )


def _reference_pass(
    reference: Subject,
    itself: Subject | None,
    scene: Scene,
    tools: Mapping[str, Tool | None],
    store: Store,
    watcher: Watcher,
) -> list[list[int]]:
    """Write the log-probabilities, with the settings of the artifacts; the greedy continuations."""
    usual = replace(reference.settings, n_batch=scene.request.n_ctx, n_ubatch=scene.request.n_ctx)
    job = {**engine(reference), "settings": asdict(usual), **text_job(scene, None), "write_base": True}
    job |= {"prompts": scene.tokens["prompts"], "n_greedy": scene.request.n_greedy}
    job |= answers_job(scene) if itself else {}
    continuations = []
    with reference_told(), Child(job, tools[reference.runner.name]) as child:
        for message in child.messages():
            match message.get("part"):
                case "continuation":
                    continuations.append(message["tokens"])
                case "answers" if itself:
                    store.add_check_answers(itself.check_id, graded_rows(message, scene))
            if message["type"] == "checked":
                watcher.step(f"{reference.artifact.label} as reference")
    return continuations


def _check_all(
    todo: Sequence[Subject],
    reference: Artifact,
    text: str,
    continuations: Sequence[Sequence[int]],
    scene: Scene,
    tools: Mapping[str, Tool | None],
    store: Store,
    watcher: Watcher,
) -> list[str]:
    failures = []
    for subject in todo:
        itself = subject.artifact.sha256 == reference.sha256
        if not itself:
            _begin(subject, reference, text, scene, store)
        job = {**engine(subject), **text_job(scene, subject.n_chunks), "write_base": False}
        job |= {"prompts": scene.tokens["prompts"], "continuations": continuations}
        job |= {"silent": scene.tokens["silent"]} | ({} if itself else answers_job(scene))
        try:
            with Child(job, tools[subject.runner.name]) as child:
                for message in child.messages():
                    if message["type"] == "checked":
                        _store(message, subject.check_id, scene, store)
                        watcher.step(subject.artifact.label)
            store.end_check(subject.check_id, Status.COMPLETE)
        except StoreError:
            raise
        except EdgebenchError as error:
            store.end_check(subject.check_id, Status.FAILED, error.message)
            failures.append(f"{subject.artifact.label}: {error.message}")
            watcher.say(f"failed: {failures[-1]}" + (f" ({error.hint})" if error.hint else ""))
    return failures


def _store(message: Mapping[str, Any], check_id: str, scene: Scene, store: Store) -> None:
    match message["part"]:
        case "chunk":
            store.add_check_tokens(check_id, message["index"], message)
        case "greedy":
            store.add_check_greedy(
                check_id, message["index"], n_same=message["n_same"], n_tokens=message["n_tokens"]
            )
        case "answers":
            store.add_check_answers(check_id, graded_rows(message, scene))
