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
    assert settings.vault == settings.data_folder / "vault"


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('port = 9000\nvault_folder = "/srv/vault"\n')
    monkeypatch.setenv("QUIESCE_PORT", "9001")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.vault == Path("/srv/vault")


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
