"""First start, settings, names, and two servers on one data folder."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from paper_machine import RunningServer

from quiesce.model.failure import Failure
from quiesce.model.vm import VmAddress
from quiesce.service.names import valid_name
from quiesce.service.service import Service
from quiesce.service.settings import Settings, load_settings


def test_first_start_makes_everything_and_secrets_are_for_the_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    service = Service(Settings(data_folder=data))
    service.close()

    for secret in ("api-token", "portal-password", "vault.key", "server.lock"):
        assert (data / secret).stat().st_mode & 0o777 == 0o600
    assert (data / "run").stat().st_mode & 0o777 == 0o700
    for file in data.iterdir():
        if file.name != "scratch":
            assert file.stat().st_mode & 0o077 == 0, f"{file.name} is open to others"
    assert (data / "quiesce.sqlite").read_bytes()[18] == 2, "not in WAL mode"
    assert (data / "workflows.sqlite").read_bytes()[18] == 2, "not in WAL mode"


def test_a_qemu_of_another_user_can_reach_its_scratch_folder_but_list_nothing(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    Service(Settings(data_folder=data)).close()
    assert {(data / name).stat().st_mode & 0o777 for name in (".", "scratch")} == {0o711}


def test_second_start_finds_the_same_secrets_vault_and_tables(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path / "data")
    first = Service(settings)
    first.vms.add(VmAddress("web", tmp_path / "qmp.sock"))
    seen = (first.api_token, first.portal_password, first.points.vault_view().id)
    first.close()

    second = Service(settings)

    assert (second.api_token, second.portal_password, second.points.vault_view().id) == seen
    assert [vm.name for vm in second.vms.all()] == ["web"]
    second.close()


def test_a_second_server_on_one_data_folder_is_refused_and_names_the_first(
    server: RunningServer, tmp_path: Path
) -> None:
    second = subprocess.run(
        [sys.executable, "-c", f"""
from pathlib import Path
from quiesce.model.failure import Failure
from quiesce.service.service import Service
from quiesce.service.settings import Settings
try:
    Service(Settings(data_folder=Path({str(tmp_path / "data")!r})))
except Failure as failure:
    print(failure.code, failure.message, f"exit {{failure.exit_code:d}}")
"""],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip

    assert second.stdout.startswith("server.already-running")
    assert str(server.process.pid) in second.stdout
    assert second.stdout.endswith("exit 6\n")
    assert server.api.get("/health").is_success


def test_a_vault_whose_key_file_is_missing_is_not_made_anew(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path / "data")
    Service(settings).close()
    settings.vault_key_file.unlink()

    with pytest.raises(Failure) as refused:
        Service(settings)

    assert refused.value.code == "auth.key-unavailable"


def test_a_vault_that_has_vanished_is_not_made_anew(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path / "data")
    Service(settings).close()
    folder = settings.vault_path
    assert folder is not None
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()

    with pytest.raises(Failure) as refused:
        Service(settings)

    assert refused.value.code == "storage.vanished"
    assert list(folder.iterdir()) == []


def test_a_first_start_cut_short_before_the_vault_was_made_begins_again(tmp_path: Path) -> None:
    settings = Settings(data_folder=tmp_path / "data")
    settings.data_folder.mkdir()
    pending = settings.data_folder / "vault.key.first-start"
    pending.write_text("11" * 32 + "\n")

    Service(settings).close()

    assert settings.vault_key_file.read_text() == "11" * 32 + "\n"
    assert not pending.exists()


def test_settings_come_from_the_file_the_environment_and_the_command_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "quiesce.toml"
    file.write_text(f'data_folder = "{tmp_path}/file"\nport = 1111\nconcurrent_jobs = 3\n')
    monkeypatch.setenv("QUIESCE_CONFIG", str(file))
    monkeypatch.setenv("QUIESCE_PORT", "2222")

    settings = load_settings(data_folder=tmp_path / "said")

    assert (settings.data_folder, settings.port, settings.concurrent_jobs) == (
        tmp_path / "said",
        2222,
        3,
    )


@pytest.mark.parametrize("text", ["port = 99999", "port = ", 'log_level = "loud"'])
def test_settings_that_make_no_sense_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "quiesce.toml"
    file.write_text(text)
    monkeypatch.setenv("QUIESCE_CONFIG", str(file))

    with pytest.raises(Failure) as refused:
        load_settings()

    assert refused.value.code == "input.config-invalid"
    assert refused.value.evidence


@pytest.mark.parametrize("name", ["web 1", "Büro-Rechner", "日本語", "a", "x" * 128, "50% & more"])
def test_a_name_may_hold_spaces_and_any_script(name: str) -> None:
    assert valid_name("VM", name) == name


def test_one_name_typed_in_two_ways_is_one_name() -> None:
    assert valid_name("VM", unicodedata.normalize("NFD", "Büro")) == "Büro"


@pytest.mark.parametrize(
    "name", ["", " ", " web", "web ", "a/b", "a\\b", "a\nb", "a\0b", "..", "x" * 300, "a\u202eb"]
)
def test_a_name_that_would_do_harm_is_refused(name: str) -> None:
    with pytest.raises(Failure) as refused:
        valid_name("VM", name)

    assert refused.value.code == "input.name-invalid"
    assert refused.value.remedy
