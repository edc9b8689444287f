"""The doctor's lines: what was looked at, and a light for each."""

from __future__ import annotations

from collections.abc import Iterable

from quiesce.model.diagnosis import Check, Diagnosis, Fact


def checks(facts: Iterable[Fact], diagnoses: Iterable[Diagnosis] = ()) -> tuple[Check, ...]:
    """A line for each thing that was looked at, by area. `diagnoses` are causes that are proven:
    a line that stands for one of them is red, or amber when backups go on in spite of it."""
    return ()
