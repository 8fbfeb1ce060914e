"""`plan`, `collect` and `deploy`: work for phones and boards that carry no edgebench."""

from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import (
    busy_option,
    db_option,
    make_requests,
    take_sigterm_as_ctrl_c,
    with_options,
)
from edgebench.cli.output import examples, output_option, remark
from edgebench.cli.progress import Progress
from edgebench.cli.run_options import POSITIVE, RUN_OPTIONS
from edgebench.core.errors import UsageError

target_option = click.option(
    "--target",
    default="android-arm64",
    show_default=True,
    help="What the device runs: android-arm64, android-x86_64, linux-arm64, linux-x86_64.",
)


@click.command(
    epilog=examples(
        "edgebench plan --device pixel8 -m smollm2-135m --quant q8_0,q4_0 -t 4 --out bundle",
        "adb push bundle /data/local/tmp/bundle && adb shell sh /data/local/tmp/bundle/start.sh",
        "adb pull /data/local/tmp/bundle && edgebench collect bundle",
        "edgebench plan --device generic-linux --target linux-arm64 -m model.gguf --out bundle",
    )
)
@with_options(RUN_OPTIONS)
@target_option
@click.option("--level", "levels", multiple=True, help="A program for this kind of processor only.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write."
)
def plan(out: Path, target: str, levels: tuple[str, ...], **options: Any) -> None:
    """Write a run into a folder, for a device that no link reaches: models, programs, jobs, a start.sh.

    It takes run's options. Brought back, `edgebench collect` stores what the device measured.
    """
    from edgebench.session_bundle import USUAL_THREADS, write_bundle

    if options["device"] in ("local", "auto"):  # what it will run on is not this computer
        options["device"] = "generic-linux" if target.startswith("linux") else "generic-android"
    if not options["threads"]:
        remark(f"threads: {USUAL_THREADS}, for nothing can be tried out there; -t names another number")
    with Progress() as progress:
        told = write_bundle(make_requests(options), out, target, progress, levels=levels)
    for line in told:
        remark(line)


@click.command(
    epilog=examples(
        "edgebench collect bundle",
        "edgebench collect --device pixel8",
        "edgebench collect bundle --db results.sqlite -o json",
    )
)
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--device", help="A phone on which an earlier command left results.")
@db_option
@busy_option
@output_option
def collect(folder: Path | None, device: str | None, db: Path, busy_timeout: float, output: str) -> None:
    """Store what a device measured: from a FOLDER of `plan` that was brought back, or from a phone.

    Collected twice, nothing is stored twice.
    """
    from edgebench.cli.levels import show_runs
    from edgebench.results.store import Store

    if (folder is None) == (device is None):
        raise UsageError("collect takes a folder, or --device", "edgebench collect bundle")
    take_sigterm_as_ctrl_c()
    with Store.open(db, busy_timeout_s=busy_timeout) as store:
        with Progress() as progress:
            if folder is not None:
                from edgebench.session_bundle import collect_bundle

                outcome = collect_bundle(folder, store, progress)
            else:
                from edgebench.session_phone import collect_phone

                outcome = collect_phone(str(device), store, progress)
        show_runs(store, outcome.run_ids, output)
    outcome.raise_if_bad()


@click.command(
    epilog=examples(
        "edgebench deploy smollm2-135m --quant q4_0 --device pixel8",
        "edgebench deploy model.gguf --device adb:192.168.1.20:41567",
        "edgebench deploy model.gguf --device pixel8 --remove",
        "edgebench deploy model.gguf --bundle model-phone.zip",
    )
)
@click.argument("model")
@click.option("--quant", help="A level of the model, made where it is not there yet.")
@click.option("--device", help="The phone: a profile's name, adb:SERIAL, or auto.")
@click.option("--remove", is_flag=True, help="Take it off the phone again.")
@click.option(
    "--bundle", type=click.Path(path_type=Path, dir_okay=False), help="Write an archive instead of a phone."
)
@target_option
@click.option("-t", "--threads", type=POSITIVE, help="For an archive; on a phone the best found count.")
@db_option
def deploy(
    model: str,
    quant: str | None,
    device: str | None,
    remove: bool,
    bundle: Path | None,
    target: str,
    threads: int | None,
    db: Path,
) -> None:
    """Leave MODEL on a phone, with its program, the settings found best, and a script to talk to it.

    --bundle writes the same as a zip archive: every file with its hash, the licences, programs for every
    kind of processor.
    """
    from edgebench import session_deploy

    if (device is None) == (bundle is None):
        raise UsageError("deploy goes to a phone or into an archive", "--device pixel8, or --bundle FILE.zip")
    if device is not None and threads is not None:
        raise UsageError(
            "-t is of an archive", "on a phone the number that edgebench run found best is taken"
        )
    if bundle is not None and remove:
        raise UsageError("--remove is of a phone", "an archive is removed as any file is")
    with Progress() as progress:
        if bundle is not None:
            told = session_deploy.write_deployment(model, quant, target, bundle, progress, n_threads=threads)
        elif remove:
            told = session_deploy.withdraw(model, quant, str(device), progress)
        else:
            told = session_deploy.deploy(model, quant, str(device), db, progress)
    for line in told:
        remark(line)
