"""optimum-benchmark's report as a run: `benchmark.json`, or `benchmark_report.json` without configuration.

Taken are the repetitions of `prefill` and `decode`, the time to load, and the peaks of memory. Both tests are
of `generate`, sampling included, hence `prefill512` and `decode127@d512` instead of pp and tg. Energy is
left out: codecarbon falls back from a counter to a table of nominal powers, and its file doesn't say so.
"""

from collections.abc import Iterator
from typing import Any

from edgebench.core.hashing import sha256_json
from edgebench.core.types import Format, Mode
from edgebench.results.import_read import Fields, last_part
from edgebench.results.import_store import ImportedRun, split_level

TOOL = "optimum-benchmark"
TARGETS = ("load_model", "load", "prefill", "decode", "per_token", "generate", "first_generate", "forward")
_BYTES_PER_MB = 1_000_000
_FORMATS = {"onnxruntime": Format.ONNX, "llama_cpp": Format.GGUF}
Row = dict[str, Any]


def optimum_runs(value: Any) -> list[ImportedRun]:
    """The run of a report; ValueError names the field that is not what it must be, or says what it lacks."""
    whole = Fields(value, "the file")
    config = whole.part("config") if "report" in whole else Fields({}, "config")
    report = whole.part("report") if "report" in whole else whole
    n_prompt, n_gen = _tokens(config, report)
    trials = list(_trials(report, n_prompt, n_gen))
    if not trials:
        raise ValueError("it has no latency.values of prefill or decode with their numbers of tokens")
    backend, environment = config.part("backend"), config.part("environment")
    named = last_part(backend.text("model") or "") or "unknown"
    model, level = split_level(named)
    dtype = backend.text("quantization_scheme") or backend.text("torch_dtype") or backend.text("dtype")
    memory_mb = environment.number("cpu_ram_mb")
    tests = list(dict.fromkeys(trial["test"] for trial in trials))
    told = {"model": named, "tests": tests, "times": [trial["total_s"] for trial in trials]}
    return [
        ImportedRun(
            mode=Mode.PERFORMANCE,
            tool=TOOL,
            tool_version=environment.text("optimum_benchmark_version") or "not told",
            model=model,
            level=level if level != "unknown" else (dtype or "unknown"),
            format=_FORMATS.get(backend.text("name") or "", Format.SAFETENSORS),
            size_bytes=0,
            device=" + ".join(filter(None, (environment.text("cpu"), _gpus(environment)))).strip()
            or "unknown",
            memory_bytes=round(memory_mb * _BYTES_PER_MB) if memory_mb else None,
            os=environment.text("system"),
            started_at=None,
            records=(sha256_json(told),),
            config={
                "tests": tests,
                "settings": {},
                "optimum_benchmark": {
                    "backend": backend.text("name"),
                    "backend_version": backend.text("version"),
                    "device": backend.text("device"),
                    "dtype": dtype,
                    "scenario": config.part("scenario").text("name"),
                },
            },
            trials=tuple(trials),
        )
    ]


def is_report(value: object) -> bool:
    """Whether an object looks like a report, or like one with its configuration."""
    if not isinstance(value, dict):
        return False
    report = value.get("report", value)
    if not isinstance(report, dict):
        return False
    return any(isinstance(report.get(name), dict) and "latency" in report[name] for name in TARGETS)


def _gpus(environment: Fields) -> str | None:
    found = environment.raw("gpu")
    if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
        return Fields({"gpu": ", ".join(found)}, "gpu").text("gpu")
    return environment.text("gpu") if isinstance(found, str) else None


def _tokens(config: Fields, report: Fields) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of a decode; None where they can't be known. ValueError for batches.

    A rate over a batch is no single request's. Without the configuration, rate x mean time tells the batch
    (prefill is in samples/s) and the tokens that were decoded.
    """
    scenario = config.part("scenario")
    shapes = scenario.part("input_shapes")
    n_gen = scenario.part("generate_kwargs").count("max_new_tokens")
    prefill, decode = _volume(report.part("prefill")), _volume(report.part("decode"))
    batch = shapes.count("batch_size") or (round(prefill) if prefill else 1)
    if batch != 1:
        raise ValueError(f"it is of batches of {batch}: their rate is no single request's")
    # The first token of an answer comes out of the prefill.
    n_decoded = n_gen - 1 if n_gen else (round(decode) if decode else None)
    return shapes.count("sequence_length"), n_decoded


def _volume(target: Fields) -> float | None:
    rate, mean_s = target.part("throughput").number("value"), target.part("latency").number("mean")
    return rate * mean_s if rate and mean_s else None


def _trials(report: Fields, n_prompt: int | None, n_gen: int | None) -> Iterator[Row]:
    depth = n_prompt or 0
    if n_prompt:
        yield from _repeated(report, "prefill", f"prefill{n_prompt}", n_prompt=n_prompt)
    if n_gen:
        name = f"decode{n_gen}" + (f"@d{depth}" if depth else "")
        yield from _repeated(report, "decode", name, n_gen=n_gen, n_depth=depth)


def _repeated(
    report: Fields, target: str, test: str, *, n_prompt: int = 0, n_gen: int = 0, n_depth: int = 0
) -> Iterator[Row]:
    own = report.part(target)
    latency = own.part("latency")
    if latency.text("unit") not in (None, "s"):
        raise ValueError(f"{latency.where}.unit is not s")
    load = report.part("load_model" if "load_model" in report else "load").part("latency")
    loads = load.durations("values")
    started_s = 0.0
    for repetition, total_s in enumerate(latency.durations("values")):
        yield {
            "test": test,
            "phase": "measured",
            "repetition": repetition,
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "n_depth": n_depth,
            "started_s": started_s,
            "load_s": loads[0] if len(loads) == 1 else None,
            "total_s": total_s,
            "prefill_s": total_s if n_prompt else None,
            "decode_s": total_s if n_gen else None,
            "peak_rss_bytes": _peak(own.part("memory"), "max_ram"),
            "peak_vram_bytes": _peak(own.part("memory"), "max_process_vram"),
            "energy_reason": "not_recorded",
        }
        started_s += total_s


def _peak(memory: Fields, name: str) -> int | None:
    value = memory.number(name)
    if value is not None and (value < 0 or memory.text("unit") not in (None, "MB")):
        raise ValueError(f"{memory.where}.{name} is not in MB")
    return round(value * _BYTES_PER_MB) if value else None
