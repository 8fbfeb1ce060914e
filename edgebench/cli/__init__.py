"""The command line: one small function a verb. Rooms are reached through session and results only."""

import sys
from typing import NoReturn

import click

from edgebench import __version__
from edgebench.cli import (
    catalog,
    compare,
    devices,
    exchange,
    measure,
    order,
    phones,
    quantize,
    recommend,
    reproduce,
    runners,
    runs,
    suites,
    sustained,
    tune,
)
from edgebench.cli.config import config_option
from edgebench.core.errors import EdgebenchError, UsageError

EXIT_INTERRUPTED = 130

EPILOG = """\b
Examples:
  edgebench run                                     the default model, six levels, on this computer
  edgebench run -m model.gguf --mode performance    pp512, tg128 and a chat request of one file
  edgebench tune -m model.gguf --goal speed         the best settings, for a third of a sweep's trials
  edgebench quantize smollm2-135m --to q8_0,q4_k_m  make levels, measure what each one lost
  edgebench compare --by quant                      what each level costs and gives
  edgebench pareto --x decode_tokens_per_s --y acc --out front.png
  edgebench run --device pixel8 -m smollm2-135m     the same on a phone: USB cable or Wi-Fi, no app, no root

Every flag can also be set as EDGEBENCH_<VERB>_<FLAG> (EDGEBENCH_RUN_THREADS=4; --db and --data are
EDGEBENCH_DB and EDGEBENCH_DATA) or in edgebench.toml; the flag wins, then the variable, then the file.
"""


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "EDGEBENCH",
        "max_content_width": 110,
    },
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="edgebench")
@config_option
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
def app(debug: bool) -> None:
    """Which model, at which quantization, on which runtime, should I ship on this device?

    Measures speed, memory and accuracy of the same file on the same device, keeps every raw sample in
    SQLite, and compares with honest intervals.
    """


for verb in (
    *(measure.run, measure.sweep, tune.tune, quantize.quantize, reproduce.reproduce),
    *(compare.compare, compare.pareto, recommend.recommend, order.order, sustained.sustained),
    *(phones.plan, phones.collect, phones.deploy, runs.runs, runs.db),
    *(exchange.import_results, exchange.export),
    *(catalog.models, suites.suites, runners.runners, devices.devices, catalog.cache),
):
    app.add_command(verb)


def main() -> NoReturn:
    """The `edgebench` command: run a verb, tell errors in one line, exit with the code design gives it."""
    try:
        app.main(prog_name="edgebench", standalone_mode=False)
    except EdgebenchError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            _interrupted()
        click.echo("nothing was done", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        hint = f"{where.command_path} --help" if where else None
        _tell(UsageError(error.format_message(), hint))
        sys.exit(error.exit_code)
    except OSError as error:
        _tell(EdgebenchError(f"{error.filename or 'system'}: {error.strerror or error}"))
        sys.exit(EdgebenchError.exit_code)
    sys.exit(0)


def _tell(error: EdgebenchError) -> None:
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        lines = error.hint.replace("\n", "\n       ")  # under the first one
        click.echo(f"hint:  {lines}", err=True)
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)


def _interrupted() -> NoReturn:
    measuring = bool({"run", "sweep", "tune"} & set(sys.argv))
    rest = ": what was measured is stored; the same command goes on from there" if measuring else ""
    click.echo(f"interrupted{rest}", err=True)
    sys.exit(EXIT_INTERRUPTED)
