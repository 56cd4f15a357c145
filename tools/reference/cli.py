"""Every command, subcommand and option."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mistralrs_onnx.tools.cli.checkpoints import COMMANDS as CHECKPOINTS
from mistralrs_onnx.tools.cli.command_line import by_subject
from mistralrs_onnx.tools.cli.option import ABOUT, subject_of
from mistralrs_onnx.tools.main import COMMANDS, main

from .text import block, code, table

SCRIPTS = {"compile": "mistralrs-compile", "serve": "mistralrs-server", "bench": "mistralrs-bench"}
ABOVE = """# Commands

`mistralrs-onnx` has every command under one name. Three of them are commands of their own, too, called as those of
mistral.rs: `mistralrs-compile`, `mistralrs-server` and `mistralrs-bench`. Options of a command stand before its
subcommand, options of the subcommand behind it. Options may also be set in the environment, those of commands with
`--config` in a file ([configuration](configuration.md)).

| exit code | |
|---|---|
| 0 | all went well |
| 1 | something else failed: a request, a port, a missing library |
| 2 | wrong usage: an option or argument that cannot be |
| 3 | no room: the model does not fit into memory |
| 4 | a model, package or file that is damaged or cannot be used |
| 130 | interrupted |
"""


def page() -> str:
    return ABOVE + "".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    command = _find(name)
    usage = block(f"mistralrs-onnx {name} {' '.join(command.collect_usage_pieces(click.Context(command)))}")
    also = f"Also `{SCRIPTS[name]}`.\n\n" if name in SCRIPTS else ""
    text = f"\n## mistralrs-onnx {name}\n\n{also}{usage}\n{_text(command)}"
    text += "".join(_options(command))
    if isinstance(command, click.Group):
        text += "".join(_subcommands(name, command))
    return text


def _find(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def _text(command: click.Command) -> str:
    return f"{command.help or ''}\n".split("\b")[0].strip() + "\n"


def _options(command: click.Command) -> Iterator[str]:
    """A table for each subject."""
    shown = [param for param in command.params if _is_shown(param)]
    if not any(subject_of(param) == ABOUT for param in shown):
        yield from _table("", shown)
        return
    for title, params in by_subject(shown).items():
        yield from _table(f"\n**{title}**\n", params)


def _is_shown(param: click.Parameter) -> bool:
    return isinstance(param, click.Argument) or (isinstance(param, click.Option) and not param.hidden)


def _table(title: str, params: list[click.Parameter]) -> Iterator[str]:
    rows = [_row(param) for param in params]
    if rows:
        yield f"{title}\n" + table(["option", "default", ""], rows)


def _row(param: click.Parameter) -> tuple[str, str, str]:
    if not isinstance(param, click.Option):
        return code(param.make_metavar(_context())), "", ""
    metavar = "" if param.is_flag else f" {param.make_metavar(_context())}"
    names = ", ".join([*param.opts, *param.secondary_opts])
    needed = "required" if param.required else _default(param)
    return code(names + metavar), needed, param.help or ""


def _context() -> click.Context:
    return click.Context(click.Command("any"))


def _default(option: click.Option) -> str:
    extra = option.get_help_extra(click.Context(click.Command("any"), show_default=True))
    return str(extra.get("default", "")).strip("()")


def _subcommands(name: str, group: click.Group) -> Iterator[str]:
    same: dict[str, list[str]] = {}
    for sub, command in group.commands.items():
        if sub in CHECKPOINTS and name != "compile":
            continue
        same.setdefault("".join(_options(command)), []).append(sub)
    for options, subs in same.items():
        for sub in subs:
            yield f"\n### mistralrs-onnx {name} {sub}\n\n{_text(group.commands[sub])}"
        yield options
    if any(sub in CHECKPOINTS for sub in group.commands) and name != "compile":
        subs_of_compile = ", ".join(code(sub) for sub in group.commands if sub in CHECKPOINTS)
        yield f"\nIts subcommands {subs_of_compile} have the options of those of `compile`.\n"
