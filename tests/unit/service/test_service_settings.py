"""Settings: sane without any, and wrong ones are named instead of being passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from quiesce.model.failure import InputFailure
from quiesce.service.settings import load_settings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "quiesce.toml"
    monkeypatch.setenv("QUIESCE_CONFIG", str(file))
    return file


def test_nothing_needs_to_be_set(config: Path) -> None:
    settings = load_settings()
    assert settings.port == 8420
    assert settings.vault_path == settings.data_folder / "vault"


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('port = 9000\nvault_folder = "/srv/vault"\n')
    monkeypatch.setenv("QUIESCE_PORT", "9001")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.vault_path == Path("/srv/vault")


def test_a_vault_by_its_address_wins_over_one_by_its_folder(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('vault_folder = "/srv/vault"\n')
    monkeypatch.setenv("QUIESCE_VAULT", "azure://backups/vms/")
    settings = load_settings()
    assert settings.vault_address == "az://backups/vms"
    assert settings.vault_path is None
    monkeypatch.setenv("QUIESCE_VAULT", "file:///srv/other")
    assert load_settings().vault_path == Path("/srv/other")


@pytest.mark.parametrize(
    "address", ["s3://AKIA:hidden@bucket", "az://c?sig=hidden", "ftp://hidden"]
)
def test_a_wrong_address_of_the_vault_is_refused_and_not_repeated(
    config: Path, address: str
) -> None:
    with pytest.raises(InputFailure) as raised:
        load_settings(vault=address)
    assert raised.value.code == "input.config-invalid"
    assert "vault: " in raised.value.evidence[0].fact
    assert "hidden" not in repr(raised.value.report())


def test_a_misspelt_setting_is_named_and_not_passed_over(config: Path) -> None:
    config.write_text('vault_foldr = "/srv/vault"\n')
    with pytest.raises(InputFailure) as raised:
        load_settings()
    assert raised.value.code == "input.config-invalid"
    assert any("vault_foldr" in evidence.fact for evidence in raised.value.evidence)


def test_the_command_lines_own_variables_are_no_settings(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIESCE_SERVER", "http://127.0.0.1:8420")
    monkeypatch.setenv("QUIESCE_TOKEN", "secret")
    assert load_settings().port == 8420


def test_a_file_that_is_no_toml_is_told_with_its_place(config: Path) -> None:
    config.write_text("port = \n")
    with pytest.raises(InputFailure) as raised:
        load_settings()
    assert raised.value.evidence[0].source == str(config)
    assert "line 1" in raised.value.evidence[0].raw


def test_without_an_address_nothing_is_offered_to_guests(config: Path) -> None:
    settings = load_settings()
    assert (settings.agent_address, settings.storage_bind, settings.storage_name) == ("", "", "")
    assert not settings.proxy


def test_the_storage_endpoint_is_at_the_host_address_unless_said_otherwise(config: Path) -> None:
    config.write_text('agent_address = "168.63.129.16"\n')
    settings = load_settings()
    assert (settings.storage_bind, settings.storage_port) == ("168.63.129.16", 443)
    assert settings.storage_name == "168.63.129.16"

    config.write_text(
        'agent_address = "168.63.129.16"\nstorage_address = "0.0.0.0"\n'
        'storage_host = "backup.example"\nstorage_port = 8443\n'
    )
    settings = load_settings()
    assert (settings.storage_bind, settings.storage_name) == ("0.0.0.0", "backup.example")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('agent_address = "0.0.0.0"', "agent_address"),
        ('agent_address = "host.example"', "agent_address"),
        ('agent_address = "::1"', "agent_address"),
        ("agent_port = 0", "agent_port"),
        ('storage_address = "backup.example"', "storage_address"),
        ('storage_address = "0.0.0.0"', "storage_host"),
        ('storage_host = "a b"', "storage_host"),
        ('storage_host = "x\\" --evil"', "storage_host"),
        ("storage_port = 65536", "storage_port"),
        ('no_proxy = "http://x"', "no_proxy"),
    ],
)
def test_an_address_that_guests_could_not_use_is_named(config: Path, line: str, named: str) -> None:
    config.write_text(line + "\n")
    with pytest.raises(InputFailure) as raised:
        load_settings()
    assert [evidence.fact.partition(":")[0] for evidence in raised.value.evidence] == [named]


@pytest.mark.parametrize("url", ["http://u:SECRET@proxy:1", "http://u:SECRET/x@proxy:1"])
def test_the_password_of_a_proxy_is_repeated_nowhere(config: Path, url: str) -> None:
    config.write_text(f'proxy_https = "{url}"\nport = 8000\n')
    try:
        said = repr(load_settings())
    except InputFailure as refused:
        said = repr(refused.report())
        assert "proxy_https" in said
    assert "8000" in said or "proxy_https" in said
    assert "SECRET" not in said
