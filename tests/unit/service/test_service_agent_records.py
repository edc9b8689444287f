"""What is kept of agents and packages, and the tables of a server that knew neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from hypothesis import given
from hypothesis import strategies as st

from quiesce.agent.waagent.ports import AgentRecord
from quiesce.model.failure import ServerFailure
from quiesce.model.network import Proxy
from quiesce.service.agents import AgentRecords
from quiesce.service.database import Database, _failures
from quiesce.service.service import Service
from quiesce.service.settings import Settings
from quiesce.service.vm_table import VmTable
from quiesce.service.workflow import _engine


def service_engine(folder: Path) -> sa.Engine:
    return Database(folder / "db")._engine


def workflow_engine(folder: Path) -> sa.Engine:
    return _engine(Settings(data_folder=folder))


SEEN = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def records(service: Service) -> AgentRecords:
    return AgentRecords(service.vms._database)


def test_a_record_outlives_the_server_and_is_replaced_as_a_whole(records: AgentRecords) -> None:
    assert records.load("web") is None
    records.save(AgentRecord("web", "first"))
    records.save(AgentRecord("web", "second", SEEN))

    assert records.load("web") == AgentRecord("web", "second", SEEN)

    records.forget("web")
    records.forget("web")
    assert records.load("web") is None


def test_the_record_of_a_removed_vm_is_gone_with_it_and_does_not_come_back(
    service: Service, records: AgentRecords
) -> None:
    records.save(AgentRecord("web", "key"))

    service.vms.remove("web")

    assert records.load("web") is None
    records.save(AgentRecord("web", "key"))  # by a request that was under way
    assert records.load("web") is None


@given(digests=st.lists(st.sampled_from("abcdef"), max_size=12))
def test_a_package_keeps_its_number_and_a_new_one_gets_a_greater(
    tmp_path_factory: pytest.TempPathFactory, digests: list[str]
) -> None:
    database = Database(tmp_path_factory.mktemp("packages") / "db")
    database.migrate()
    records = AgentRecords(database)

    numbers = {digest: records.package_build(digest) for digest in dict.fromkeys(digests)}

    assert list(numbers.values()) == list(range(1, len(numbers) + 1))
    assert [records.package_build(digest) for digest in digests] == [numbers[d] for d in digests]
    database.close()


def test_many_threads_get_one_number_for_one_package(records: AgentRecords) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(records.package_build, ["digest"] * 40))
    assert numbers == [1] * 40


@pytest.fixture
def old_database(tmp_path: Path) -> Iterator[Database]:
    """A database as the server had it before it knew agents, with one protected VM."""
    database = Database(tmp_path / "old.sqlite")
    with as_file(files("quiesce.service") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder))
        with database._engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            connection.commit()
    with sqlite3.connect(database.path) as raw:
        raw.execute(
            "INSERT INTO vms (name, qmp_socket, qga_socket, image_files, added_at) "
            "VALUES ('old', '/qmp', '/qga', '{}', '2026-01-01 00:00:00')"
        )
        raw.execute("INSERT INTO policies VALUES ('daily', '{}')")
        raw.execute("INSERT INTO protection VALUES ('old', 'daily', '2026-01-01 00:00:00')")
    yield database
    database.close()


def test_vms_of_an_older_server_stay_protected_and_have_the_qemu_guest_agent(
    old_database: Database,
) -> None:
    old_database.migrate()

    table = VmTable(old_database, Proxy())
    address = table.address("old")
    assert (address.agent, address.guest_address, address.proxy) == ("qga", "", None)
    assert address.qga_socket == Path("/qga")
    assert table.row("old").policy == "daily"
    assert [(vm.name, vm.agent) for vm in table.recognisable()] == [("old", "qga")]


@pytest.mark.parametrize("made_by", [service_engine, workflow_engine])
def test_what_the_database_refuses_is_in_no_report(
    made_by: Callable[[Path], sa.Engine], tmp_path: Path
) -> None:
    """A disk that is full when a password or a private key is to be written."""
    engine = made_by(tmp_path)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (body TEXT)")
        connection.commit()
        connection.exec_driver_sql("PRAGMA query_only=ON")
        with pytest.raises(ServerFailure) as refused, _failures(tmp_path):
            connection.execute(sa.text("INSERT INTO kept VALUES (:body)"), {"body": "SECRET"})
    report = refused.value.report()
    assert "readonly" in repr(report.evidence)
    assert "SECRET" not in repr(report)
    engine.dispose()
