"""Whatever a bundle or a guest's papers hold, they are read or refused with a code.

QUIESCE_FUZZ_SECONDS=600 QUIESCE_FUZZ_SEED=7 pytest -s tests/fuzz/test_papers_fuzz.py
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from paper_inputs import GUEST, NOW, bundle_seeds, look_through, read_through

from quiesce.model.papers import Paper, Papers

SECONDS = float(os.environ.get("QUIESCE_FUZZ_SECONDS", "5"))
FIRST_SEED = int(os.environ.get("QUIESCE_FUZZ_SEED", random.SystemRandom().randrange(10**9)))

fuzzing = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def batches(check: Callable[[], None]) -> None:
    """Run `check`, a hypothesis test, with one seed after the other until the time is up."""
    end, number = time.monotonic() + SECONDS, FIRST_SEED
    while time.monotonic() < end:
        print(f"fuzzing papers, QUIESCE_FUZZ_SEED={number}")
        seed(number)(check)()
        number += 1


def test_bent_bundles_are_read_or_refused_with_a_code() -> None:
    seeds = bundle_seeds()
    cut = st.integers(0, 60_000)
    put = st.one_of(st.binary(max_size=40), st.sampled_from([b"\0" * 512, b"../", b"9" * 12, b"x"]))

    @fuzzing
    @given(st.sampled_from(seeds), st.lists(st.tuples(cut, st.integers(0, 600), put), max_size=4))
    def check(whole: bytes, bends: list[tuple[int, int, bytes]]) -> None:
        for at, length, new in bends:
            at %= len(whole) + 1
            whole = whole[:at] + new + whole[at + length :]
        read_through(whole)

    batches(check)


def test_bent_papers_never_stop_a_reader() -> None:
    words = sorted({word for text in GUEST.values() for word in text.split()})
    odd = [
        *("\n", " ", "\n\n", "=", "{", "[", '"', ":", "0", "-1", "\ufffd", "é", "nan", "%"),
        *("9" * 30, "9" * 5000, "²", "٣", ".", "..", "inf", "1e999"),
    ]
    piece = st.one_of(st.sampled_from(words), st.sampled_from(odd), st.text(max_size=6))
    text = st.one_of(
        st.sampled_from(list(GUEST.values())),
        st.lists(piece, max_size=30).map(" ".join),
        st.lists(piece, max_size=30).map("".join),
        st.tuples(st.sampled_from(list(GUEST.values())), st.integers(0, 300), piece).map(
            lambda bent: bent[0][: bent[1]] + bent[2] + bent[0][bent[1] + 1 :]
        ),
    )
    status = st.sampled_from([None, 0, 1, 127])

    @fuzzing
    @given(st.dictionaries(st.sampled_from(sorted(GUEST)), st.tuples(text, status), max_size=9))
    def check(found: dict[str, tuple[str, int | None]]) -> None:
        papers = tuple(
            Paper(path, words, len(words), NOW, 0o644, 0, status=ended)
            for path, (words, ended) in found.items()
        )
        look_through(Papers(papers, "fuzz", NOW, NOW))
        look_through(Papers(papers, "fuzz"))

    batches(check)
