"""`quiesce completion`: completion scripts for shells."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

_WHERE = {
    "bash": (
        'eval "$(quiesce completion bash)"',
        "quiesce completion bash > /etc/bash_completion.d/quiesce",
    ),
    "zsh": (
        'eval "$(quiesce completion zsh)"',
        'quiesce completion zsh > "${fpath[1]}/_quiesce"',
    ),
    "fish": (
        "quiesce completion fish | source",
        "quiesce completion fish > ~/.config/fish/completions/quiesce.fish",
    ),
}


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell.")],
    /,
    *,
    how: Annotated[
        bool, Parameter(show_default=False, help="Say how to install it instead of printing it.")
    ] = False,
) -> None:
    """Print the completion script of a shell."""
    if how:
        now, always = _WHERE[shell]
        print(f"In this shell:  {now}\nIn every shell: {always}")
        return
    from quiesce.cli.main import build

    print(build().generate_completion(prog_name="quiesce", shell=shell))
