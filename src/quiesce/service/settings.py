"""Settings of the server: one TOML file and the environment, sane without either.

The file is `$QUIESCE_CONFIG`, else `/etc/quiesce/quiesce.toml` for root and
`$XDG_CONFIG_HOME/quiesce/quiesce.toml` for others; it need not exist. `QUIESCE_DATA_FOLDER=…` and
its like win over the file.
"""

from __future__ import annotations

import os
import tomllib
from ipaddress import AddressValueError, IPv4Address, ip_address
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from quiesce.model.failure import Evidence, InputFailure
from quiesce.model.network import Proxy
from quiesce.service.proxies import problem_of_no_proxy, problem_of_url, valid_host


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

    model_config = SettingsConfigDict(
        env_prefix="QUIESCE_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data_folder: Path = Field(default_factory=default_data_folder)
    """Databases, keys and, unless set otherwise, vault and scratch space."""
    vault: str = ""
    """Where the vault lies: a folder, or `s3://…`, `az://…`, `gs://…`. Wins over `vault_folder`."""
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
    agent_address: str = ""
    """The host address of guests whose agent is the Azure Linux agent: 168.63.129.16, or what
    DHCP option 245 tells them. Empty: nothing is served to guests over their network."""
    agent_port: int = Field(default=80, ge=1, le=65535)
    """The agent knows no other than 80."""
    host_plugin_port: int = Field(default=32526, ge=1, le=65535)
    storage_address: str = ""
    """Where the storage endpoint listens; empty: at `agent_address`."""
    storage_port: int = Field(default=443, ge=1, le=65535)
    storage_host: str = Field(default="", validate_default=True)
    """Name or address by which guests reach the storage endpoint; empty: `storage_address`."""
    proxy_http: SecretStr = SecretStr("")
    proxy_https: SecretStr = SecretStr("")
    """Proxies of the guests, on their way to the storage endpoint; may hold a password."""
    no_proxy: str = ""
    log_level: str = "info"
    log_json: bool = False

    @field_validator("agent_address")
    @classmethod
    def _reachable(cls, address: str) -> str:
        if not address:
            return ""
        try:
            parsed = IPv4Address(address)
        except AddressValueError as wrong:
            raise ValueError("must be an IPv4 address such as 168.63.129.16, or empty") from wrong
        if parsed.is_unspecified or parsed.is_multicast:
            raise ValueError("must be an address that guests can reach")
        return str(parsed)

    @field_validator("storage_address")
    @classmethod
    def _bindable(cls, address: str) -> str:
        return str(ip_address(address)) if address else ""

    @field_validator("storage_host")
    @classmethod
    def _host(cls, host: str, given: ValidationInfo) -> str:
        if host and not valid_host(host):
            raise ValueError("must be a host name or an address")
        bind = given.data.get("storage_address")
        if bind and not host and ip_address(bind).is_unspecified:
            raise ValueError("must be set when storage_address means every address")
        return host

    @field_validator("proxy_http", "proxy_https")
    @classmethod
    def _proxy_url(cls, url: SecretStr) -> SecretStr:
        problem = problem_of_url(url.get_secret_value())
        if problem:
            raise ValueError(problem)
        return url

    @field_validator("no_proxy")
    @classmethod
    def _no_proxy(cls, names: str) -> str:
        problem = problem_of_no_proxy(names)
        if problem:
            raise ValueError(problem)
        return names

    @field_validator("data_folder", "vault_folder", "scratch_folder", "run_folder")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else folder.expanduser().absolute()

    @field_validator("vault")
    @classmethod
    def _place(cls, address: str) -> str:
        if not address:
            return ""
        # Imported here: the command line reads settings, and has no need for a vault's libraries.
        from quiesce.vault.stores.address import describe

        try:
            return describe(address)
        except InputFailure as failure:
            raise ValueError(failure.message) from failure

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
    def vault_address(self) -> str:
        """As `quiesce.vault.stores.address` has it; never with a secret."""
        return self.vault or str(self.vault_folder or self.data_folder / "vault")

    @property
    def vault_path(self) -> Path | None:
        """The vault's folder, if it is one."""
        return None if "://" in self.vault_address else Path(self.vault_address)

    @property
    def index_cache(self) -> Path:
        """Where a vault in the cloud has a copy of its index."""
        return self.data_folder / "index-cache"

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
    def storage_folder(self) -> Path:
        """Keys and certificates of the storage endpoint."""
        return self.data_folder / "storage"

    @property
    def storage_bind(self) -> str:
        return self.storage_address or self.agent_address

    @property
    def storage_name(self) -> str:
        return self.storage_host or self.storage_bind

    @property
    def proxy(self) -> Proxy:
        return Proxy(
            http=self.proxy_http.get_secret_value(),
            https=self.proxy_https.get_secret_value(),
            no_proxy=self.no_proxy,
        )

    @property
    def lock_file(self) -> Path:
        return self.data_folder / "server.lock"


def _secret(location: tuple[int | str, ...]) -> bool:
    """Whether what was given there must not be repeated: proxies have passwords, and who writes one
    into the vault's address shall not find it in a log as well."""
    return not location or location[0] == "vault" or str(location[0]).startswith("proxy")


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
                    raw="" if _secret(error["loc"]) else repr(error["input"]),
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
