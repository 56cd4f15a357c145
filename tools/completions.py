"""`mistralrs-onnx completions`: what a shell runs to complete the commands of this package."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import distribution

import click
from click.shell_completion import get_completion_class

INSTALL = {
    "bash": ("Add this line to ~/.bashrc:", 'eval "$(mistralrs-onnx completions bash)"'),
    "zsh": ("Add this line to ~/.zshrc, after compinit:", 'eval "$(mistralrs-onnx completions zsh)"'),
    "fish": ("Add this line to ~/.config/fish/config.fish:", "mistralrs-onnx completions fish | source"),
}

EXAMPLES = """
\b
Install it with a line in a file that the shell reads when it starts:
  ~/.bashrc                   eval "$(mistralrs-onnx completions bash)"
  ~/.zshrc, after compinit    eval "$(mistralrs-onnx completions zsh)"
  ~/.config/fish/config.fish  mistralrs-onnx completions fish | source
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completions(shell: str) -> None:
    """Print what makes a shell complete the commands, subcommands and options of mistralrs-onnx."""
    click.echo("\n".join(["# {}\n#   {}".format(*INSTALL[shell]), *scripts(shell)]))


def scripts(shell: str) -> Iterator[str]:
    """One for each command that is installed."""
    kind = get_completion_class(shell)
    assert kind is not None
    for command in commands():
        variable = f"_{command}_COMPLETE".replace("-", "_").upper()  # as click derives it from the command's name
        yield kind(click.Command(command), {}, command, variable).source().strip() + "\n"


def commands() -> list[str]:
    """Those that this package installs."""
    scripts = distribution("mistralrs-onnx").entry_points.select(group="console_scripts")
    return sorted(script.name for script in scripts)
