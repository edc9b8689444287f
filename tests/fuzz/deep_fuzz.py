"""Coverage-guided fuzzing, in process, of all that a guest or another peer sends to the server.

    make fuzz-deep SECONDS=60
    python tests/fuzz/deep_fuzz.py --seconds 600 storage report
    python tests/fuzz/deep_fuzz.py --again report build/fuzz/report/crash-…

Each target (deep_targets.py) runs for that long, in a process of its own: libFuzzer ends it at the
first input that makes the server raise what it must not, answer 5xx, take 5 s or hold too much
memory, and leaves that input in build/fuzz. What reached new code stays there for the next run.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import atheris
import structlog
from deep_words import VALUES, WORDS

FOLDER = Path("build/fuzz")
SLOWEST_SECONDS = 5
MOST_MEMORY_MIB = 800
LONGEST_INPUT_BYTES = 16 * 1024
_REACHED = re.compile(r"^#\d+\t.*cov: (\d+) ft: (\d+)", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)
_PEAK = re.compile(r"^stat::peak_rss_mb:\s+(\d+)", re.MULTILINE)
_ARTIFACT = re.compile(r"Test unit written to (\S+)")
_ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 1 << 63, 10**400),
    *("", "x", "\x1b[31m", "\ud800", "\u202e", "0" * 40, [], {}, [[]], [{}], {"": None}),
]


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    asked.add_argument("--seconds", type=int, default=60, help="per target")
    asked.add_argument("--again", nargs="+", help="a target, and inputs to run once more")
    asked.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked.add_argument("targets", nargs="*", help="all of them, when none is named")
    options = asked.parse_args()
    if options.child:
        fuzz(options.targets[0], options.targets[1:])
    if options.again:
        return subprocess.call([*_child(options.again[0]), *options.again[1:]])
    print(f"{'target':12}{'executions':>12}{'coverage':>10}{'features':>10}{'MiB':>6}  crashes")
    bad = [run(name, options.seconds) for name in options.targets or _names()]
    return 1 if any(bad) else 0


def _names() -> list[str]:
    from deep_targets import TARGETS

    return list(TARGETS)


def _child(name: str) -> list[str]:
    return [sys.executable, __file__, "--child", "--", name]


def run(name: str, seconds: int) -> bool:
    """Fuzz one target, print its line, and return whether it crashed."""
    folder = FOLDER / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        status = subprocess.call([*_child(name), *flags, str(corpus)], stdout=log, stderr=log)
        log.seek(0)
        said = log.read()
    executions, peak = (_last(figure, said) or "?" for figure in (_EXECUTIONS, _PEAK))
    coverage, features = _last(_REACHED, said) or ("?", "?")
    words = f"1: {_last(_ARTIFACT, said) or folder / 'log'}" if status else "0"
    print(f"{name:12}{executions:>12}{coverage:>10}{features:>10}{peak:>6}  {words}", flush=True)
    return status != 0


def _last(wanted: re.Pattern[str], text: str) -> Any:
    found = wanted.findall(text)
    return found[-1] if found else None


def fuzz(name: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with atheris.instrument_imports(include=["quiesce"], enable_loader_override=False):
        from deep_targets import HTTP_TARGETS, JSON_TARGETS, TARGETS

        make, seeds = TARGETS[name]
        target = make()
    folder = FOLDER / name
    (folder / "seeds").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        target(seed)
        (folder / "seeds" / str(number)).write_bytes(seed)
    words = (word.encode() for word in WORDS)
    entries = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in words]
    (folder / "words").write_text("\n".join(entries) + "\n")
    flags = [
        f"-timeout={SLOWEST_SECONDS}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}",
        f"-max_len={LONGEST_INPUT_BYTES}",
        f"-dict={folder / 'words'}",
        *arguments,
    ]
    if any(Path(each).is_dir() for each in arguments):
        flags.append(str(folder / "seeds"))
    mutator: dict[str, Any] = {"custom_mutator": bent_json} if name in JSON_TARGETS else {}
    if name in HTTP_TARGETS:
        mutator = {"custom_mutator": bent_request}
    atheris.Setup([sys.argv[0], *flags], target, **mutator)
    atheris.Fuzz()


def bent_request(data: bytes, most_bytes: int, seed: int) -> bytes:
    """A third of the time the same request with one more header or query field; else its bytes
    changed as libFuzzer does."""
    dice = random.Random(seed)
    ends = [match.start() for match in re.finditer(b" HTTP/1.1\r\n", data)]
    if ends and dice.random() < 0.33:
        end, word, value = dice.choice(ends), dice.choice(WORDS), dice.choice(VALUES)
        put, at = f"&{word}{value}", end
        if word.endswith(": "):
            put, at = f"{word}{value}\r\n", end + len(b" HTTP/1.1\r\n")
        bent = data[:at] + put.encode("latin-1") + data[at:]
        if word.endswith(("=", ": ")) and len(bent) <= most_bytes:
            return bent
    return bytes(atheris.Mutate(data, most_bytes))


def bent_json(data: bytes, most_bytes: int, seed: int) -> bytes:
    """Half of the time the same document with one value of it replaced by another of its values or
    by an odd one; else, and when it is no JSON, its bytes changed as libFuzzer does."""
    dice = random.Random(seed)
    if dice.random() < 0.5:
        try:
            document = json.loads(data)
            places = list(_places(document))
            holder, key = dice.choice(places)
            other, its_key = dice.choice(places)
            holder[key] = dice.choice([other[its_key], *dice.sample(_ODD_VALUES, 3)])
            bent = json.dumps(document).encode()
        except (ValueError, RecursionError, IndexError):
            pass
        else:
            if len(bent) <= most_bytes:
                return bent
    return bytes(atheris.Mutate(data, most_bytes))


def _places(document: Any) -> Any:
    """Where a value stands: its holder and its key there."""
    if isinstance(document, dict | list):
        inner = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in list(inner):
            yield document, key
            yield from _places(value)


if __name__ == "__main__":
    sys.exit(main())
