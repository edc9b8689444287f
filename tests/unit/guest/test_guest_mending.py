"""What a guest can mend is the same for both agents, though neither side imports the other."""

from __future__ import annotations

import re
from importlib import resources

from quiesce.agent import inside
from quiesce.guest import mending


def test_server_guest_and_script_know_the_same_actions() -> None:
    script = (resources.files("quiesce.guest") / "mend.sh").read_text()
    asked = script.partition("case $1 in")[2].partition("esac")[0]
    known = re.findall(r"(?m)^ +([a-z |-]+)\)", asked)
    assert mending.ACTIONS == inside.ACTIONS
    assert {each for line in known for each in line.split(" | ")} == set(inside.ACTIONS)


def test_server_and_guest_take_the_same_words() -> None:
    assert mending._WORD.pattern == inside._WORD.pattern
