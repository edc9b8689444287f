"""Whatever bytes a store gives back, a parser of a vault takes them or refuses them in its own way.

    QUIESCE_FUZZ_SECONDS=600 pytest -s tests/fuzz/test_vault_fuzz.py

Each target of `deep_vault` runs for that long on inputs bent at random; led by coverage they run in
`make fuzz-deep`."""

from __future__ import annotations

import os
import random
import time

import pytest
from deep_vault import VAULT_TARGETS

SECONDS = float(os.environ.get("QUIESCE_FUZZ_SECONDS", "5"))
FIRST_SEED = int(os.environ.get("QUIESCE_FUZZ_SEED", random.SystemRandom().randrange(10**9)))


def bent(dice: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(4):
            case 0 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 1:
                del out[at : at + dice.randint(1, 40)]
            case 2:
                out[at:at] = dice.randbytes(dice.randint(1, 40))
            case _:
                start = dice.randrange(len(out) + 1)
                out[at : at + 4] = out[start : start + dice.choice([4, 8, 32])]
    return bytes(out)


@pytest.mark.parametrize("name", VAULT_TARGETS)
def test_stored_bytes_are_taken_or_refused(name: str) -> None:
    make, seeds = VAULT_TARGETS[name]
    target, inputs = make(), seeds()
    for seed_input in inputs:
        target(seed_input)
    dice = random.Random(FIRST_SEED)
    ends, tried = time.monotonic() + SECONDS, 0
    while time.monotonic() < ends or tried < 100:
        data = bent(dice, dice.choice(inputs))
        try:
            target(data)
        except BaseException:
            print(f"seed {FIRST_SEED}, input {tried}: {data.hex()}")
            raise
        tried += 1
        if len(data) < 4096 and tried % 50 == 0:
            inputs = [*inputs[-30:], *seeds(), data]
    print(f"{name}: {tried} inputs, seed {FIRST_SEED}")
