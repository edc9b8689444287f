"""Settings of the server: one TOML file and the environment, sane without either.

The file is `$QUIESCE_CONFIG`, else `/etc/quiesce/quiesce.toml` for root and
`$XDG_CONFIG_HOME/quiesce/quiesce.toml` for others; it need not exist. `QUIESCE_DATA_FOLDER=…` and
its like win over the file.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from quiesce.model.failure import Evidence, InputFailure


def _is_root() -> bool:
    return os.geteuid() == 0


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "quiesce"


def default_data_folder() -> Path:
    return Path("/var/lib/quiesce") if _is_root() else _xdg("XDG_DATA_HOME", ".local/share")


def config_file() -> Path:
    given = os.environ.get("QUIESCE_CONFIG")
    if given:
        return Path(given)
    folder = Path("/etc/quiesce") if _is_root() else _xdg("XDG_CONFIG_HOME", ".config")
    return folder / "quiesce.toml"


class Settings(BaseSettings):
    """Folders that are not set lie in the data folder."""

    model_config = SettingsConfigDict(env_prefix="QUIESCE_", extra="forbid", frozen=True)

    data_folder: Path = Field(default_factory=default_data_folder)
    """Databases, keys and, unless set otherwise, vault and scratch space."""
    vault_folder: Path | None = None
    scratch_folder: Path | None = None
    """Where guest writes are kept aside while a snapshot is read."""
    run_folder: Path | None = None
    """Sockets; 0700. Its path must be short: a unix socket's address holds 107 bytes."""
    host: str = "127.0.0.1"
    port: int = Field(default=8420, ge=0, le=65535)
    """TCP port of API and portal; 0 takes any free one."""
    concurrent_jobs: int = Field(default=2, ge=1, le=64)
    schedule_seconds: float = Field(default=15.0, gt=0, le=3600)
    """How often the schedule is looked at."""
    log_level: str = "info"
    log_json: bool = False

    @field_validator("data_folder", "vault_folder", "scratch_folder", "run_folder")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser().absolute()

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        level = level.lower()
        if level not in ("debug", "info", "warning", "error"):
            raise ValueError("must be debug, info, warning or error")
        return level

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls, toml_file=config_file()),
        )

    @property
    def vault(self) -> Path:
        return self.vault_folder or self.data_folder / "vault"

    @property
    def scratch(self) -> Path:
        return self.scratch_folder or self.data_folder / "scratch"

    @property
    def run(self) -> Path:
        return self.run_folder or self.data_folder / "run"

    @property
    def api_socket(self) -> Path:
        return self.run / "quiesce.sock"

    @property
    def database(self) -> Path:
        return self.data_folder / "quiesce.sqlite"

    @property
    def workflow_database(self) -> Path:
        """DBOS's own; nothing but DBOS reads it."""
        return self.data_folder / "workflows.sqlite"

    @property
    def vault_key_file(self) -> Path:
        return self.data_folder / "vault.key"

    @property
    def api_token_file(self) -> Path:
        return self.data_folder / "api-token"

    @property
    def portal_password_file(self) -> Path:
        return self.data_folder / "portal-password"

    @property
    def lock_file(self) -> Path:
        return self.data_folder / "server.lock"


def load_settings(**given: object) -> Settings:
    """The settings in force; `given` (options of a command) win over file and environment.

    :raise InputFailure: input.config-invalid, naming each field
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as wrong:
        raise InputFailure(
            "input.config-invalid",
            "The server's settings are not valid.",
            evidence=[
                Evidence(
                    fact=f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}",
                    source=f"{config_file()} or QUIESCE_* in the environment",
                    raw=repr(error["input"]),
                )
                for error in wrong.errors()
            ],
        ) from wrong
    except (tomllib.TOMLDecodeError, OSError) as unreadable:
        raise InputFailure(
            "input.config-invalid",
            f"The configuration file {config_file()} cannot be read.",
            evidence=[Evidence("not readable TOML", str(config_file()), raw=str(unreadable))],
        ) from unreadable
