"""`devices`: what can be measured on, and with what."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark, yes_no
from edgebench.cli.run_options import NAMES, POSITIVE
from edgebench.core.errors import UsageError
from edgebench.core.units import ABSENT, data_size, duration, interval, significant


@click.group(
    epilog=examples(
        "edgebench devices list",
        "edgebench devices show local -o json",
        "edgebench devices probe",
        "edgebench devices probe --device ssh:pi@board",
        "edgebench devices fit smollm2-135m --quant q8_0,q4_0",
        "edgebench devices pair 192.168.1.20:37123 123456",
        "edgebench devices connect 192.168.1.20:41567",
        "edgebench devices probe --device pixel8",
        "edgebench devices clean ssh:pi@board",
    )
)
def devices() -> None:
    """Devices edgebench can measure on, and what they can do."""


@devices.command("list", epilog=examples("edgebench devices list"))
@output_option
def devices_list(output: str) -> None:
    """Every device profile."""
    from edgebench.session_catalog import list_devices

    columns = [
        Column("name", "name"),
        Column("title", "what it is"),
        Column("soc", "processor"),
        Column("memory_bytes", "memory", data_size, right=True),
        Column("transport", "reached by"),
    ]
    emit(list_devices(), columns, output)


@devices.command("show", epilog=examples("edgebench devices show", "edgebench devices show local -o json"))
@click.argument("name", default="local")
@output_option
def devices_show(name: str, output: str) -> None:
    """A device's facts, from its profile, or this computer's; unknown ones are shown as absent.

    `devices probe` asks a phone or a host itself.
    """
    from edgebench.session_catalog import show_device

    if name.startswith(("adb:", "ssh:")):
        raise UsageError(
            f"{name} is one device, not a kind of them",
            f"edgebench devices probe --device {shlex.quote(name)}",
        )
    emit_one(show_device(name), output, name)


@devices.command(
    "probe",
    epilog=examples(
        "edgebench devices probe",
        "edgebench devices probe --device pixel8",
        "edgebench devices probe --device ssh:pi@board -o json",
    ),
)
@click.option(
    "--device",
    default="local",
    show_default=True,
    help="This computer, ssh:user@board[:port], or a phone: pixel8, adb:SERIAL, auto.",
)
@output_option
def devices_probe(device: str, output: str) -> None:
    """What a computer lets be measured: every power sensor there could be, heat, frequency.

    For a sensor that can't be used: why, and the command that would make it usable.
    """
    from edgebench.session_catalog import probe_meters, probe_state

    if device == "local":
        meters, state, findings = probe_meters(), probe_state(), []
    else:
        from edgebench.cli.progress import Progress
        from edgebench.session_phone import check_reachable, is_phone, probe_phone
        from edgebench.session_remote import probe_host

        check_reachable(device)
        with Progress() as progress:
            phone = device == "auto" or is_phone(device)  # here it is never this computer
            told = (probe_phone if phone else probe_host)(device, progress)
        meters, state, findings = told["meters"], told["state"], told.get("findings", [])
    if output in ("json", "jsonl"):
        emit_one({"meters": meters, "state": state, **({"findings": findings} if findings else {})}, output)
        return
    columns = [
        Column("source", "source"),
        Column("usable", "usable", yes_no),
        Column("scope", "scope"),
        Column("step_told", "step", right=True),
        Column("update_s", "every", duration, right=True),
        Column("minimum_s", "window from", duration, right=True),
        Column("reason", "reason"),
        Column("told", "what it is, or why not"),
    ]
    emit([{**row, "step_told": _step(row), "told": _told(row)} for row in meters], columns, output, "energy")
    if output == "csv":
        return
    for row in meters:
        if row["fix"]:
            remark(f"{row['source']}: to make it usable: {row['fix']}")
    if not any(row["usable"] for row in meters):
        remark("energy: can't be measured there now; figures stay empty, nothing is guessed")
    if findings:
        found = [Column("name", "what"), Column("usable", "usable", yes_no), Column("told", "what was found")]
        emit(findings, found, output, "what the phone allows")
        for row in findings:
            if row["fix"]:
                remark(f"{row['name']}: {row['fix']}")
    now = state["now"]
    shown = [{"fact": name, "value": _fact(name, value)} for name, value in now.items()]
    emit(shown, [Column("fact", "fact"), Column("value", "now")], output, "heat and state")


@devices.command("pair", epilog=examples("edgebench devices pair 192.168.1.20:37123 123456"))
@click.argument("address")
@click.argument("code")
def devices_pair(address: str, code: str) -> None:
    """Make this computer known to a phone over Wi-Fi: ADDRESS and CODE as the phone shows them.

    On the phone: Developer options, Wireless debugging, Pair device with pairing code. Once is enough.
    """
    from edgebench.session_phone import pair

    remark(pair(address, code))


@devices.command("connect", epilog=examples("edgebench devices connect 192.168.1.20:41567"))
@click.argument("address")
def devices_connect(address: str) -> None:
    """Connect to a phone over Wi-Fi: ADDRESS as its page Wireless debugging shows it, after `pair`."""
    from edgebench.session_phone import connect

    remark(connect(address))


@devices.command(
    "clean",
    epilog=examples(
        "edgebench devices clean ssh:pi@board",
        "edgebench devices clean pixel8",
        "edgebench devices clean ssh:pi@board --yes",
    ),
)
@click.argument("host")
@click.option("--yes", is_flag=True, help="Don't ask.")
def devices_clean(host: str, yes: bool) -> None:
    """Remove everything edgebench put on HOST, a computer or a phone: programs, models, results."""
    from edgebench.cli.progress import Progress
    from edgebench.session_phone import check_reachable, clean_phone, is_phone, phone_folder
    from edgebench.session_remote import clean_host, host_folder

    check_reachable(host)
    if host == "auto" or is_phone(host):
        clean_host, host_folder = clean_phone, phone_folder
    with Progress() as progress:
        folder, size_bytes = host_folder(host, progress)
        if not size_bytes:
            remark(f"{host}: nothing of edgebench in {folder}")
            return
    if not yes:
        click.confirm(f"remove {folder} on {host} ({data_size(size_bytes)})?", abort=True, err=True)
    with Progress() as progress:
        clean_host(host, progress)
    remark(f"removed {folder} on {host} ({data_size(size_bytes)})")


def _step(row: Mapping[str, Any]) -> str | None:
    return None if row["step"] is None else f"{significant(row['step'])} {row['step_unit']}"


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['title']}: {row['why']}" if row["why"] else str(row["title"])


def _fact(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name.endswith("_hz"):
        return f"{value / 1e9:.2f} GHz"
    if name.endswith("_c"):
        return f"{value:.1f} °C"
    return str(value)


@devices.command(
    "fit",
    epilog=examples(
        "edgebench devices fit ./model.gguf",
        "edgebench devices fit smollm2-135m --quant q8_0,q4_0 -p 512 -n 128",
        "edgebench devices fit ./model.gguf -t 4 -d 4096 -o json",
    ),
)
@click.argument("model")
@click.option("--quant", type=NAMES, default=(), help="Levels of the model that are made already, by comma.")
@click.option("-p", "--n-prompt", type=POSITIVE, default=512, show_default=True, help="Tokens of the prompt.")
@click.option("-n", "--n-gen", type=POSITIVE, default=128, show_default=True, help="Tokens to generate.")
@click.option(
    "-d", "--n-depth", type=click.IntRange(min=0), default=0, show_default=True, help="Tokens before."
)
@click.option("-t", "--threads", type=POSITIVE, help="CPU threads.  [default: physical cores]")
@db_option
@output_option
def devices_fit(
    model: str,
    quant: tuple[str, ...],
    n_prompt: int,
    n_gen: int,
    n_depth: int,
    threads: int | None,
    db: Path,
    output: str,
) -> None:
    """What MODEL will take on this computer, before it is run: memory, speed, time to first token.

    From the file's metadata, the computer's own limits, and what the database knows of other models here.
    """
    from edgebench.results.store import Store
    from edgebench.session_plan import usual_settings
    from edgebench.session_predict import fit_rows

    store = Store.open_readonly(db) if db.exists() else None
    try:
        rows = fit_rows(
            *(model, quant, store, usual_settings(threads)),
            n_prompt=n_prompt,
            n_gen=n_gen,
            n_depth=n_depth,
            say=remark,
        )
    finally:
        if store is not None:
            store.close()
    columns = [
        Column("level", "level"),
        Column("size_bytes", "file", data_size, right=True),
        Column("peak_rss_bytes", "peak memory", _predicted_size, right=True),
        Column("fits", "fits", yes_no),
        Column("prefill_tokens_per_s", f"pp{n_prompt} t/s", _predicted, right=True),
        Column("decode_tokens_per_s", f"tg{n_gen} t/s", _predicted, right=True),
        Column("ttft_s", "TTFT", _predicted_s, right=True),
        Column("energy_j_per_token", "J/token", _predicted, right=True),
    ]
    emit(rows, columns, output, f"{model} on this computer, predicted")
    if output in ("table", "md"):
        for row in rows:
            if parts := row["memory_parts"]:
                told = ", ".join(f"{k.removesuffix('_bytes')} {data_size(v)}" for k, v in parts.items() if v)
                remark(f"{row['level']}: memory: {told}")
        for basis in dict.fromkeys(
            row[key]["basis"] for row in rows for key in ("decode_tokens_per_s", "energy_j_per_token")
        ):
            remark(f"from: {basis}")
        remark(
            "predicted (evidence: modelled), with 95 % intervals; edgebench run measures, and tells the error"
        )


def _predicted(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return ABSENT
    return f"{significant(figure['value'])}\n{interval(figure['ci_low'], figure['ci_high'])}"


def _predicted_size(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return ABSENT
    return f"{data_size(figure['value'])}\n[{data_size(figure['ci_low'])}, {data_size(figure['ci_high'])}]"


def _predicted_s(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return ABSENT
    return f"{duration(figure['value'])}\n[{duration(figure['ci_low'])}, {duration(figure['ci_high'])}]"
