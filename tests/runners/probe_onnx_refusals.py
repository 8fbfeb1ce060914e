"""What the ONNX runners refuse, how they say it, and what they leave behind. Run by the tool's interpreter:

python probe_onnx_refusals.py PLAIN GENAI SCRATCH      prints one JSON object: case -> [kind, message, hint]
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebench.core.errors import EdgebenchError
from edgebench.core.types import Settings
from edgebench.runners.onnx import Onnx
from edgebench.runners.onnx_genai import OnnxGenai

CPU = Settings(n_threads=1)


def main() -> None:
    plain, genai, scratch = map(Path, sys.argv[1:])
    runners: dict[str, tuple[Any, Path]] = {"onnx": (Onnx(), plain), "onnx_genai": (OnnxGenai(), genai)}
    found: dict[str, Any] = {}
    for name, (runner, folder) in runners.items():
        for provider in ("cuda", "quda", "azure"):
            asked = Settings(n_threads=1, provider=provider)
            found[f"{name} {provider}"] = refused(runner, folder, asked)
        found[f"{name} gpu"] = refused(runner, folder, Settings(n_threads=1, gpu="0"))
        found[f"{name} ngl"] = refused(runner, folder, Settings(n_threads=1, n_gpu_layers=9))
        odd = rewritten(folder, scratch / f"{name}-input", with_an_unknown_input)
        found[f"{name} unknown input"] = refused(runner, odd, CPU)
        shutil.rmtree(scratch / f"{name}-input")
        (odd / "model.onnx").parent.mkdir()
        (odd / "model.onnx").write_bytes(b"not a graph")
        shutil.copyfile(genai / "genai_config.json", odd / "genai_config.json")
        found[f"{name} damaged"] = refused(runner, odd, CPU)
    found["onnx_genai plain"] = refused(OnnxGenai(), plain, CPU)
    for option in ("custom_ops_library", "enable_profiling"):
        folder = reconfigured(genai, scratch / option, session_options={"log_id": "x", option: "x"})
        found[f"onnx_genai {option}"] = refused(OnnxGenai(), folder, CPU)
    folder = reconfigured(genai, scratch / "elsewhere", filename="../model.onnx")
    found["onnx_genai elsewhere"] = refused(OnnxGenai(), folder, CPU)
    with OnnxGenai().load(genai, CPU) as session:
        session.open(n_ctx=10**6)
        found["onnx_genai too long"] = told(lambda: session.prefill([5] * (session.n_ctx_train + 1)))
    last = {name: rewritten(f, scratch / f"{name}-last", with_one_logit) for name, (_, f) in runners.items()}
    found["last"] = {name: same_scores(*runners[name], folder) for name, folder in last.items()}
    print(json.dumps(found))


def refused(runner: Any, folder: Path, settings: Settings) -> list[Any]:
    return told(lambda: runner.load(folder, settings))


def told(call: Callable[[], Any]) -> list[Any]:
    try:
        call()
    except EdgebenchError as error:
        return [type(error).__name__, error.message, error.hint]
    return ["nothing", "", ""]


def reconfigured(folder: Path, target: Path, **decoder: Any) -> Path:
    """A folder like this one, with other words in its description of the graph."""
    shutil.copytree(folder, target)
    config = json.loads((target / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["decoder"] |= decoder
    (target / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


def rewritten(folder: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A folder like this one, with another graph."""
    import onnx

    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("model.onnx*"))
    model = onnx.load(folder / "model.onnx")
    for node in model.graph.node:
        node.output[:] = ["inner_logits" if name == "logits" else name for name in node.output]
    change(model.graph)
    onnx.save(model, target / "model.onnx")
    return target


def with_an_unknown_input(graph: Any) -> None:
    from onnx import TensorProto, helper

    graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1]))
    graph.node.append(helper.make_node("Div", ["inner_logits", "temperature"], ["logits"]))


def with_one_logit(graph: Any) -> None:
    """Only the last token's logits leave the graph, as in graphs that are made for writing alone."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "the_last"))
    graph.node.append(helper.make_node("Gather", ["inner_logits", "the_last"], ["logits"], axis=1))
    [logits] = [one for one in graph.output if one.name == "logits"]
    logits.type.tensor_type.shape.dim[1].dim_value = 1


def same_scores(runner: Any, whole: Path, last: Path) -> float:
    """The largest difference of a log-likelihood between a graph and its like that gives the last logits."""
    found = []
    for folder in (whole, last):
        with runner.load(folder, CPU) as session:
            session.open(n_ctx=64)
            items = [
                (session.tokenize(f"Which letter is {x}?"), [session.tokenize(f" {x} is it")]) for x in "ab"
            ]
            scores = session.loglikelihoods(items, n_cells=64, shared=items[0][0][:2])
            scores += session.loglikelihoods(items, n_cells=0)
            found.append([score.logprob for row in scores for score in row])
    return max(abs(a - b) for a, b in zip(*found, strict=True))


if __name__ == "__main__":
    main()
