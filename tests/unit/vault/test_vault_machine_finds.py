"""The moves and the model of the histories find defects that are put back into the vault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from vault_damage import DamagedVault
from vault_machine import VaultMachine
from vault_trouble import TroubledVault

from quiesce.model.failure import Failure
from quiesce.vault.contents.records import Records
from quiesce.vault.upkeep.lately import Deletions

Step = Callable[..., None]


@contextmanager
def history(machine: VaultMachine, seed: int = 7, late: int = 0) -> Iterator[Step]:
    """Each move is followed by a look at every point."""

    def step(move: Step, *how: Any) -> None:
        move(*how)
        machine.every_committed_point_restores()

    try:
        step(machine.make_vault, [0, 0, 0], late, seed)
        step(machine.back_up_at_once, 0, [1, 3, 5, 7], True, True)
        yield step
    finally:
        machine.teardown()


def a_backup_outlives_a_mark_of_what_it_needs() -> None:
    machine = TroubledVault()
    with history(machine) as step:
        step(machine.need_what_is_being_marked, 0, 0, True)


def a_backup_comes_to_need_what_late_lists_show_after_it_was_deleted() -> None:
    """What a list shows is drawn."""
    for seed in range(12):
        machine = TroubledVault()
        with history(machine, seed, late=60) as step:
            step(machine.need_what_was_just_deleted, 0, 0, 3)


def damage_is_found_and_healed() -> None:
    machine = DamagedVault()
    with history(machine) as step:
        step(machine.damage, 0, "flipped", 0.3)
        step(machine.find_and_heal, 2, 0, "chunks")
        assert not machine.hurt


def what_was_healed_is_kept_while_the_record_of_the_damage_rots() -> None:
    """Which copy might go depends on the names of packs, which are drawn."""
    for seed in range(12):
        machine = DamagedVault()
        with history(machine, seed) as step:
            step(machine.damage, 0, "flipped", 0.3)
            step(machine.find_and_heal, 2, 0, "chunks")
            step(machine.wait, 5 * 60)
            step(machine.rot, "damage/", 0, "cut", 0.5)
            for _ in range(4):
                step(machine.collect_at_once_after_a_while, 1, 30)


def test_a_vault_as_it_should_be_passes() -> None:
    a_backup_outlives_a_mark_of_what_it_needs()
    a_backup_comes_to_need_what_late_lists_show_after_it_was_deleted()
    damage_is_found_and_healed()
    what_was_healed_is_kept_while_the_record_of_the_damage_rots()


def test_a_collection_that_heeds_no_session_is_found() -> None:
    with (
        mock.patch.object(Records, "sessions", return_value=[]),
        pytest.raises(Failure, match="cannot be read"),
    ):
        a_backup_outlives_a_mark_of_what_it_needs()


def test_a_mark_that_goes_while_lists_show_what_was_deleted_is_found() -> None:
    with (
        mock.patch.object(Deletions, "settled", return_value=True),
        pytest.raises(Failure, match="is missing"),
    ):
        a_backup_comes_to_need_what_late_lists_show_after_it_was_deleted()


def test_a_backup_that_relies_on_what_is_known_as_damaged_is_found() -> None:
    with (
        mock.patch.object(Records, "damage", side_effect=dict),
        pytest.raises(AssertionError, match="born hurt by damage that was known"),
    ):
        damage_is_found_and_healed()


def test_a_collection_that_takes_an_unreadable_record_for_none_is_found() -> None:
    with (
        mock.patch.object(Records, "unreadable", return_value=[]),
        pytest.raises(AssertionError, match="became hurt by damage that was known"),
    ):
        what_was_healed_is_kept_while_the_record_of_the_damage_rots()
