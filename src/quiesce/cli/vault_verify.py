"""`quiesce vault check` and `verify`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from quiesce.cli import screen
from quiesce.cli.follow import finish_or_follow
from quiesce.cli.options import (
    COMMON,
    MINUTES,
    REQUESTS,
    SAMPLE,
    Common,
    Wait,
    byte_count,
)
from quiesce.cli.vault_place import PLACE, Place, as_json_value
from quiesce.cli.working import working
from quiesce.model.failure import ExitCode, InputFailure
from quiesce.model.progress import Progress
from quiesce.model.units import size_text

Mode = Literal["structure", "packs", "chunks", "sample"]


def check(
    *,
    wait: Wait = True,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Look whether every chunk of every point lies in a pack that is there. Reads no chunk."""
    return verify(mode="structure", wait=wait, place=place, common=common)


def verify(
    *,
    mode: Annotated[
        Mode,
        Parameter(
            help="structure: manifests and indexes; packs: also the hash of every pack; "
            "chunks: also every chunk, decrypted; sample: restore some chunks, drawn by chance."
        ),
    ] = "packs",
    sample: Annotated[
        int | None, Parameter(validator=SAMPLE, help="With --mode sample: how many chunks.")
    ] = None,
    minutes: Annotated[
        float | None, Parameter(validator=MINUTES, help="Stop after so long.")
    ] = None,
    read: Annotated[str | None, Parameter(help="Stop before more is read, such as 20GiB.")] = None,
    requests: Annotated[
        int | None, Parameter(validator=REQUESTS, help="Stop before more requests.")
    ] = None,
    cursor: Annotated[
        str, Parameter(show_default=False, help="Go on where a verification stopped at its limit.")
    ] = "",
    forecast: Annotated[
        bool, Parameter(show_default=False, help="Only say what it would read and ask.")
    ] = False,
    without_key: Annotated[
        bool, Parameter(show_default=False, help="With --at: check the packs without any key.")
    ] = False,
    wait: Wait = True,
    place: Place = PLACE,
    common: Common = COMMON,
) -> int:
    """Check the vault, and name the points that suffer from any damage."""
    limits = {
        "seconds": None if minutes is None else minutes * 60,
        "size_bytes": None if read is None else byte_count(read),
        "requests": requests,
    }
    if without_key and not (place.at is not None and mode == "packs"):
        raise InputFailure(
            "input.usage", "--without-key checks packs, and goes with --at and --mode packs."
        )
    if sample is not None and mode != "sample":
        raise InputFailure(
            "input.usage",
            f"Chunks are drawn in mode sample only, and this is mode {mode}.",
            remedy="Say `--mode sample`, or leave `--sample` out.",
        )
    if forecast and (cursor or any(limit is not None for limit in limits.values())):
        raise InputFailure(
            "input.usage",
            "--forecast says what a whole verification would cost, without any limit.",
            remedy="Leave `--minutes`, `--read`, `--requests` and `--cursor` out.",
        )
    place.check_keyless(without_key)
    place.check_wait(wait)
    if place.at is not None:
        if forecast:
            return _forecast(_cost(place, mode, sample, without_key), common)
        return _here(place, mode, sample, limits, cursor, without_key, common)
    with common.client() as client:
        if forecast:
            return _forecast(client.get("vault", "forecast", mode=mode, sample=sample), common)
        body = {"mode": mode, "cursor": cursor, "sample": sample, **limits}
        job = client.post("vault", "verify", body=body)
        return finish_or_follow(client, job, wait=wait, as_json=common.json)


def _forecast(cost: Any, common: Common) -> int:
    def human() -> None:
        screen.say(f"About {cost['requests']} requests and {size_text(cost['bytes'])} read.")

    screen.emit(cost, as_json=common.json, human=human)
    return ExitCode.OK


def _cost(place: Place, mode: Mode, sample: int | None, without_key: bool) -> Any:
    from quiesce.vault.upkeep.forecast import forecast_packs
    from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS

    if without_key:
        return as_json_value(forecast_packs(place.store()))
    return as_json_value(place.open().forecast(mode, sample=sample or SAMPLE_CHUNKS))


def _here(
    place: Place,
    mode: Mode,
    sample: int | None,
    limits: dict[str, Any],
    cursor: str,
    without_key: bool,
    common: Common,
) -> int:
    from quiesce.service.verify import damaged, stuck, told
    from quiesce.vault.upkeep.budget import Budget
    from quiesce.vault.upkeep.sampling import SAMPLE_CHUNKS
    from quiesce.vault.upkeep.verify_packs import verify_packs
    from quiesce.vault.upkeep.verify_report import Verdict

    budget = Budget(limits["seconds"], limits["size_bytes"], limits["requests"])
    vault = None if without_key else place.open()
    go_on = f"Begin again, or in parts: `quiesce vault verify{place.words} --minutes 30`"
    with working("Verify vault", go_on=go_on, quiet=common.json) as (tell, cancelled):
        if vault is None:
            report = verify_packs(
                place.store(),
                budget=budget,
                cursor=cursor,
                on_progress=tell,
                cancelled=cancelled,
            )
        else:
            report = vault.verify(
                mode,
                budget=budget,
                cursor=cursor,
                sample=sample or SAMPLE_CHUNKS,
                on_progress=tell,
                cancelled=cancelled,
            )
        # The last walk counts what the points protect, or chunks.
        tell(Progress(report.bytes_read, report.bytes_read))

    def human() -> None:
        for line in told(report, place.words):
            screen.advise(line)
        for finding in report.findings:
            if finding.healed:  # the others are the failure's evidence
                screen.say(f"{finding.object}: {finding.detail.rstrip('.')}; it is healed.")
        if report.verdict is Verdict.DAMAGED:
            failure = damaged(report, with_key=not without_key)
            screen.show_failure(failure.report(), to=screen.out)
        elif report.stuck:
            screen.show_failure(stuck(report).report(), to=screen.out)
        elif report.verdict is not Verdict.INTACT:
            if not report.came_to_none:
                screen.say("Nothing damaged was found in what was looked at.", "green")
        elif mode == "structure":  # a pack that has turned bad is there, too
            screen.say("Nothing is missing.", "green")
            screen.advise(
                f"Whether it is still what was stored: `quiesce vault verify{place.words}`"
            )
        else:
            screen.say("The vault is whole.", "green")

    # Without the key no point is known.
    damage = None if vault is None else report.damage(datetime.now(UTC))
    answer = {
        **as_json_value(report),
        "verdict": str(report.verdict),
        "damage": as_json_value(damage),
    }
    screen.emit(answer, as_json=common.json, human=human)
    if report.verdict is Verdict.DAMAGED:
        return ExitCode.DAMAGED
    return ExitCode.USAGE if report.stuck else ExitCode.OK
