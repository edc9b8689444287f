"""`quiesce server`: run the server here, until Ctrl-C or SIGTERM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from quiesce.cli import screen

if TYPE_CHECKING:
    from quiesce.api.serve import MountPortal
    from quiesce.service.settings import Settings


def server(
    *,
    data: Annotated[Path | None, Parameter(help="Folder for databases, keys and vault.")] = None,
    vault: Annotated[
        str | None, Parameter(help="The vault: a folder, s3://…, az://… or gs://…")
    ] = None,
    host: Annotated[str | None, Parameter(help="Address to listen on. Default: 127.0.0.1")] = None,
    port: Annotated[int | None, Parameter(help="Port of API and portal. Default: 8420")] = None,
    portal: Annotated[bool, Parameter(negative="--no-portal", help="Serve the portal.")] = True,
) -> None:
    """Run the server: API, portal, schedule and jobs.

    Makes everything it needs on its first start. Other settings are in the configuration file
    and in QUIESCE_… environment variables.
    """
    # Imported here: the server's libraries are most of Quiesce's start-up time.
    from quiesce.api.serve import serve
    from quiesce.service.logs import configure_logs
    from quiesce.service.service import Service
    from quiesce.service.settings import load_settings

    said = {"data_folder": data, "vault": vault, "host": host, "port": port}
    settings = load_settings(**{name: value for name, value in said.items() if value is not None})
    configure_logs(settings.log_level, as_json=settings.log_json)
    first_start = not settings.vault_key_file.exists()
    service = Service(settings)

    def tell(port: int) -> None:
        _say_where(settings, port, portal=portal, first_start=first_start)

    serve(service, mount_portal=_portal() if portal else None, on_bound=tell)


def _portal() -> MountPortal:
    from quiesce.portal.mount import mount

    return mount


def _say_where(settings: Settings, port: int, *, portal: bool, first_start: bool) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    screen.facts(
        (
            ("portal", f"{url}/" if portal else ""),
            ("  password in", str(settings.portal_password_file) if portal else ""),
            ("API", f"{url}/api/v1 and {settings.api_socket}"),
            ("  token in", str(settings.api_token_file)),
            ("vault", settings.vault_address),
            ("  key in", str(settings.vault_key_file)),
        )
    )
    if first_start:
        screen.say(
            "First start: the vault's key was made. Copy it to another machine now. Without "
            "the key nobody, you included, can read the vault.",
            "bold yellow",
        )
        screen.advise(f"For example: `scp {settings.vault_key_file} …`")
