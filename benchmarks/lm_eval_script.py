"""lm-eval's own evaluator on some tasks, in a process of its environment; see `lm_eval_tool.py`.

    python lm_eval_script.py JOB.json OUT.json

JOB: `model` (a checkpoint folder, for the `hf` backend; null: only the prompts are made), `tasks` (their
folder), `num_fewshot`, `chat`, `n_threads`, `batch_sizes` (each is one evaluation). OUT: one object per
batch size with `took_s`, `peak_rss_bytes`, `results`, and per question its contexts, continuations,
log-likelihoods and metrics.
"""

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval import evaluator
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

GROUP = "parity"

# A look at the whole computer, with programs of its own, that takes longer than small evaluations.
evaluator.add_env_info = lambda storage: None


class SessionLM(TemplateLM):
    """An edgebench `Session` as lm-eval's model: lm-eval splits texts and counts, the session scores."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session

    @property
    def eot_token_id(self) -> int:
        """Stands before an empty context; there is none here."""
        return self._session.bos or 0

    @property
    def tokenizer_name(self) -> str:
        """Asked for under a chat template."""
        return "session"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The session's ids."""
        return self._session.tokenize(string)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """All turns as one, as edgebench asks: lm-eval's own backends give the description a turn."""
        return self._session.chat_prompt("".join(turn["content"] for turn in chat_history))[0]

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        found = []
        for _text, context, continuation in requests:
            # What does not fit is cut from the left, as lm-eval's own backends do it.
            fitting = (context + continuation)[-(self._session.n_ctx_train + 1) :]
            item = (fitting[: -len(continuation)], [continuation])
            score = self._session.loglikelihoods([item], n_cells=0)[0][0]
            found.append((score.logprob, score.is_greedy))
        return found

    def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
        """Not asked here."""
        raise NotImplementedError

    def generate_until(self, requests: Any, **_: Any) -> list[str]:
        """Not asked here."""
        raise NotImplementedError


class Unasked(SessionLM):
    """Shows what would be asked: every answer is as likely as the others."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Nobody is asked."""
        return [(-1.0, False) for _ in requests]

    def generate_until(self, requests: Any, **_: Any) -> list[str]:
        """Nobody is asked."""
        return ["" for _ in requests]


def evaluate(model: Any, job: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One evaluation of the group of tasks."""
    start = time.perf_counter()
    found = evaluator.simple_evaluate(
        model=model,
        tasks=[GROUP],
        task_manager=TaskManager(include_path=job["tasks"], include_defaults=False),
        num_fewshot=job["num_fewshot"],
        apply_chat_template=job.get("chat", False),
        fewshot_as_multiturn=False,
        bootstrap_iters=1,  # the stderr of a mean is a formula; without any there is none
        **more,
    )
    took_s = time.perf_counter() - start
    questions = {
        sample["doc"]["id"]: {
            "contexts": [arguments[0] for arguments in sample["arguments"]],
            "continuations": [arguments[1] for arguments in sample["arguments"]],
            "logprobs": [answer[0] for answer in sample["filtered_resps"] if isinstance(answer, tuple)],
            **{name: sample[name] for name in ("acc", "acc_norm", "acc_bytes") if name in sample},
        }
        for samples in found["samples"].values()
        for sample in samples
    }
    results = {
        name: {key: value for key, value in row.items() if isinstance(value, int | float)}
        for name, row in found["results"].items()
    }
    return {"took_s": took_s, "results": results, "questions": questions}


def main() -> None:
    """Do the job with the `hf` backend in f32 on the CPU."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = []
    for batch_size in job["batch_sizes"]:
        told = evaluate(_model(job, batch_size), job)
        peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found.append({"batch_size": batch_size, "peak_rss_bytes": peak_rss_bytes, **told})
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


def _model(job: Mapping[str, Any], batch_size: int) -> Any:
    if job["model"] is None:
        return Unasked(None)
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(job["n_threads"])
    return HFLM(pretrained=job["model"], dtype="float32", device="cpu", batch_size=batch_size)


if __name__ == "__main__":
    main()
