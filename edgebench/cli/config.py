"""Defaults from a file: `edgebench.toml` in the working folder, else the user's own.

    db = "results.sqlite"      # every verb that has --db
    [run]
    threads = 4
    quant = ["q8_0", "q4_0"]

Flags win over environment variables, those over the file, the file over the built-in defaults.
"""

import tomllib
from pathlib import Path
from typing import Any

import click

from edgebench.core.errors import UsageError

FILE_NAME = "edgebench.toml"


def _load(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    path = value or _found()
    if path is None:
        return
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no configuration file at {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if isinstance(ctx.command, click.Group):
        ctx.default_map = _defaults(ctx.command, ctx, raw, {}, str(path))


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    envvar="EDGEBENCH_CONFIG",
    callback=_load,
    help=f"Defaults in TOML (./{FILE_NAME} when it is there).",
)


def _found() -> Path | None:
    here = Path(FILE_NAME)
    if here.is_file():
        return here
    import platformdirs

    own = Path(platformdirs.user_config_dir("edgebench")) / FILE_NAME
    return own if own.is_file() else None


def _defaults(
    group: click.Group, ctx: click.Context, raw: dict[str, Any], inherited: dict[str, Any], where: str
) -> dict[str, Any]:
    """click's default_map: keys at the top reach every verb, a table its own verb."""
    shared = inherited | {key: value for key, value in raw.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in raw.items() if isinstance(value, dict)}
    if unknown := tables.keys() - set(group.list_commands(ctx)):
        raise UsageError(f"{where}: no verb {', '.join(sorted(unknown))}")
    known = _known(group, ctx)
    if stray := [key for key in raw.keys() - tables.keys() if key not in known]:
        raise UsageError(f"{where}: no verb has an option {', '.join(sorted(stray))}")
    out: dict[str, Any] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        table = tables.get(name, {})
        if isinstance(command, click.Group):
            out[name] = _defaults(command, ctx, table, shared, f"{where} [{name}]")
        elif command is not None:
            out[name] = _command_defaults(command, table, shared, f"{where} [{name}]")
    return out


def _known(command: click.Command, ctx: click.Context) -> set[str]:
    """Every option of a verb, or of all verbs of a group."""
    if not isinstance(command, click.Group):
        return set(option_names(command))
    verbs = (command.get_command(ctx, name) for name in command.list_commands(ctx))
    return set().union(*(_known(verb, ctx) for verb in verbs if verb is not None))


def _command_defaults(
    command: click.Command, table: dict[str, Any], shared: dict[str, Any], where: str
) -> dict[str, Any]:
    spelled = option_names(command)
    if unknown := [key for key in table if key not in spelled]:
        raise UsageError(f"{where}: no option {', '.join(unknown)}", f"known: {', '.join(sorted(spelled))}")
    values = {key: value for key, value in shared.items() if key in spelled} | table
    return {spelled[key]: as_text(value) for key, value in values.items()}


def option_names(command: click.Command) -> dict[str, str]:
    """Every long spelling of a command's options, without dashes -> the parameter's name."""
    return {
        spelling.lstrip("-"): str(param.name)
        for param in command.params
        if isinstance(param, click.Option)
        for spelling in param.opts
        if spelling.startswith("--")
    }


def as_text(value: Any) -> Any:
    """A TOML value as the command line would spell it: lists by comma; on and off for switches."""
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return value


def as_flag(key: str, value: Any) -> str:
    """A key and its TOML value as one argument: `--threads=2`, `--no-mmap`."""
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key}={as_text(value)}"
