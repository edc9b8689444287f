"""`quiesce vault`: each command in a module of its own, imported when it is asked for."""

from __future__ import annotations

from cyclopts import App

from quiesce.cli.options import AT_OR_SERVER

app = App(
    name="vault",
    help="The vault: status, checks, keys, copies, clearing up. With --at, of any vault, without a "
    "server.",
    group_parameters=AT_OR_SERVER,
)

for _name, _target, _text in (
    ("status", "vault_look:status", "Where the vault is and what it holds."),
    ("list", "vault_look:list_", "The server's vault, and where copies of it went."),
    ("check", "vault_verify:check", "Look whether all points have all they need."),
    ("verify", "vault_verify:verify", "Read what is stored, and name the points that suffer."),
    ("copy", "vault_copy:copy", "Copy the vault to a second place; only what is missing there."),
    ("key", "vault_key:app", "Who can open the vault: list, add, remove, rotate."),
    ("prune", "vault_clear:prune", "Delete the points that no rule wants any more."),
    ("gc", "vault_clear:collect", "Free the space of what no point needs."),
    ("rebuild-index", "vault_clear:rebuild_index", "Make the index anew from the packs."),
    ("lock", "vault_lock:lock", "Retention locks: for how long nobody can destroy a point."),
    ("create", "vault_create:create", "Make a vault."),
    ("points", "vault_points:points", "The points of a vault, without a server."),
    ("restore", "vault_points:restore", "Write disks of a point to files, without a server."),
):
    app.command(f"quiesce.cli.{_target}", name=_name, help=_text)
