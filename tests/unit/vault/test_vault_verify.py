"""How far a verification came, what it cost, and what it may say of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import Fault, FaultyStore, Rule
from hypothesis import given
from hypothesis import strategies as st
from paper_store import PaperStore
from small_vault import SMALL_CHUNK, small_disk, small_packs, small_scene
from vault_scene import FakeClock, Scene

from quiesce.model.failure import Failure, InputFailure, JobFailure
from quiesce.model.job import Progress
from quiesce.vault.contents.cache import CachingStore, IndexCache
from quiesce.vault.points.reader import DiskMap
from quiesce.vault.upkeep.budget import Budget, Meter
from quiesce.vault.upkeep.forecast import forecast_packs
from quiesce.vault.upkeep.verify_packs import verify_packs
from quiesce.vault.upkeep.verify_report import Cursor, Verdict, VerifyMode, VerifyReport

WEB = small_disk(*range(1, 60, 2))
MAIL = small_disk(*range(101, 130, 2))


@pytest.fixture
def paper(clock: FakeClock) -> PaperStore:
    return PaperStore(clock)


@pytest.fixture
def scene(paper: PaperStore, clock: FakeClock) -> Iterator[Scene]:
    """Two VMs and about a dozen packs."""
    with small_packs():
        scene = small_scene(paper, clock)
        scene.backup("web-1", WEB)
        scene.backup("mail-1", MAIL, vm="mail")
        yield scene.reopened()


def stored(paper: PaperStore) -> int:
    return sum(len(paper.objects[key][0]) for key in paper.keys("packs/"))


def spoil(paper: PaperStore, key: str, at: int = 100) -> None:
    data, when = paper.objects[key]
    paper.objects[key] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], when


def pack_with(scene: Scene, vm: str, chunk: int) -> str:
    """The pack that holds this chunk of a VM's disk."""
    return next(key for key, places in places_of(scene, vm).items() if chunk in places)


def places_of(scene: Scene, vm: str) -> dict[str, list[int]]:
    contents = scene.vault.contents
    manifest = scene.vault.manifest(scene.vault.points(vm)[0].id)
    disk_map = DiskMap(contents, manifest.maps[0])
    found: dict[str, list[int]] = {}
    for chunk in range(manifest.maps[0].size_bytes // SMALL_CHUNK):
        place = contents.index.locate(disk_map.chunk(chunk))
        assert place is not None
        name = contents.index.name_of(place.pack).hex()
        found.setdefault(f"packs/{name[:2]}/{name}", []).append(chunk)
    return found


# ── budgets and cursors ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_what_does_not_fit_in_a_budget_is_never_called_intact(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    limit = stored(paper) // 3
    report = scene.vault.verify(mode, budget=Budget(bytes=limit))
    assert report.verdict is Verdict.NOTHING_FOUND
    assert not report.intact
    assert report.stopped_by == "bytes"
    assert 0 < report.covered_share <= 1 / 3
    assert report.bytes_read <= limit
    assert report.total_bytes == stored(paper)
    assert report.points == (), "no point is said to be whole of which nothing was looked at"


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_round_in_many_runs_looks_at_every_pack_once(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    reports: list[VerifyReport] = []
    cursor = ""
    while not reports or cursor:
        watched = FaultyStore(paper)
        there = scene.reopened(watched)
        budget = Budget(bytes=stored(paper) // 3)
        reports.append(there.vault.verify(mode, budget=budget, cursor=cursor))
        cursor = reports[-1].cursor
        assert len(reports) < 20
    assert len(reports) >= 3
    assert sum(report.packs_checked for report in reports) == len(paper.keys("packs/"))
    shares = [report.covered_share for report in reports]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert reports[-1].verdict is Verdict.INTACT
    assert {health.vm for health in reports[-1].points} == {"web", "mail"}


def test_packs_stored_while_a_round_goes_on_are_left_to_the_next_one(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    before = set(paper.keys("packs/"))
    first = scene.vault.verify("packs", budget=Budget(bytes=stored(paper) // 2))
    clock.advance(hours=1)
    scene.backup("web-2", small_disk(*range(301, 340, 2)))
    rest = scene.reopened().vault.verify("packs", cursor=first.cursor)
    assert first.packs_checked + rest.packs_checked == len(before) < rest.packs
    assert rest.covered_share == 1.0


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_budget_of_requests_ends_every_mode_and_it_says_so(
    scene: Scene, paper: PaperStore, mode: VerifyMode
) -> None:
    whole = scene.reopened().vault.verify(mode).requests
    least = scene.reopened().vault.verify(mode, budget=Budget(requests=0)).requests
    assert least < whole
    for allowed in (0, whole // 2, whole - 1):
        report = scene.reopened().vault.verify(mode, budget=Budget(requests=allowed))
        assert report.requests <= max(allowed, least)
        assert report.stopped_by == "requests"
        assert report.verdict is Verdict.NOTHING_FOUND
    assert scene.reopened().vault.verify(mode, budget=Budget(requests=2 * whole)).stopped_by == ""


def test_a_walk_through_the_maps_goes_on_after_the_last_point_it_came_to(scene: Scene) -> None:
    for number in range(6):
        scene.clock.advance(hours=1)
        scene.backup(f"more-{number}", small_disk(*range(401 + number, 500, 2)), vm=f"vm-{number}")
    seen: list[str] = []
    cursor, runs = "", 0
    base = scene.reopened().vault.verify("structure").requests
    while runs == 0 or cursor:
        runs += 1
        there = scene.reopened()
        report = there.vault.verify("structure", budget=Budget(requests=base - 6), cursor=cursor)
        assert report.examined == (not report.cursor)
        seen += [health.vm for health in report.points]
        cursor = report.cursor
        assert runs < 10
    assert runs > 1
    assert sorted(seen) == sorted(["web", "mail", *(f"vm-{number}" for number in range(6))])


def test_time_ends_it_between_two_packs() -> None:
    now = [0.0]
    meter = Meter(Budget(seconds=60), monotonic=lambda: now[0])
    assert meter.reserve(1, 1000) == ""
    now[0] = 60.0
    assert meter.reserve(1, 1000) == "time"
    assert (meter.requests, meter.bytes) == (1, 1000)


@given(st.text(max_size=80))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InputFailure) as caught:
        Cursor.parse(text)
    assert caught.value.code == "vault.cursor-unknown"


def test_a_cursor_of_another_mode_is_refused(scene: Scene) -> None:
    cursor = scene.vault.verify("packs", budget=Budget(bytes=0)).cursor
    with pytest.raises(Failure) as caught:
        scene.vault.verify("chunks", cursor=cursor)
    assert caught.value.code == "vault.cursor-unknown"


# ── a sample ─────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_is_restored_and_repeated_by_its_seed(scene: Scene) -> None:
    report = scene.vault.verify("sample", sample=40)
    assert report.sample is not None
    assert report.sample.restored == report.sample.wanted == 40
    assert report.sample.size_bytes == 40 * SMALL_CHUNK
    assert report.sample.damaged_share_below == pytest.approx(0.072, abs=0.001)
    assert report.verdict is Verdict.NOTHING_FOUND
    again = scene.reopened().vault.verify("sample", sample=40, seed=report.sample.seed)
    assert again.sample == report.sample


def test_a_sample_comes_to_every_chunk_of_every_point(scene: Scene, paper: PaperStore) -> None:
    """However the dice fall, enough draws find one chunk in forty-five."""
    spoil(paper, pack_with(scene, "web", 29))
    report = scene.reopened().vault.verify("sample", sample=400, seed=1)
    assert report.verdict is Verdict.DAMAGED
    assert report.sample is not None
    assert report.sample.failed
    assert report.sample.damaged_share_below is None
    assert all("disk sda" in why for why in report.sample.failed)
    assert [health.vm for health in report.points if not health.intact] == ["web"]
    # It is on record: the next backup stores the chunk anew.
    assert scene.reopened().backup("web-2", WEB).stored_bytes > 0


def test_a_sample_of_nothing_but_zeros_ends(paper: PaperStore, clock: FakeClock) -> None:
    scene = small_scene(paper, clock)
    scene.backup("empty", bytes(64 * SMALL_CHUNK))
    report = scene.vault.verify("sample", sample=10)
    assert report.sample is not None
    assert report.sample.restored == 0
    assert report.sample.damaged_share_below is None


# ── without a key ────────────────────────────────────────────────────────────────────────────────


def test_packs_are_checked_without_any_key(scene: Scene, paper: PaperStore) -> None:
    seen: list[Progress] = []
    report = verify_packs(paper, on_progress=seen.append)
    assert report.findings == ()
    assert report.covered_share == 1.0
    assert report.packs_checked == len(paper.keys("packs/"))
    assert report.bytes_read == seen[-1].done_bytes == seen[-1].total_bytes == stored(paper)
    assert report.verdict is Verdict.NOTHING_FOUND, "what is missing cannot be told without a key"


@pytest.mark.parametrize("folder", ["packs", "points", "index"])
def test_any_flipped_bit_is_found_without_a_key(
    scene: Scene, paper: PaperStore, folder: str
) -> None:
    victim = paper.keys(f"{folder}/")[0]
    for at in range(0, len(paper.objects[victim][0]), 97):
        spoil(paper, victim, at)
        report = verify_packs(paper)
        assert [finding.object for finding in report.findings] == [victim]
        assert report.verdict is Verdict.DAMAGED
        spoil(paper, victim, at)


def test_a_check_without_a_key_goes_on_where_it_stopped(scene: Scene, paper: PaperStore) -> None:
    checked, cursor = 0, ""
    budget = Budget(requests=len(paper.keys()) // 2 + 8)
    for _ in range(10):
        report = verify_packs(paper, budget=budget, cursor=cursor)
        checked += report.packs_checked
        assert report.requests <= budget.requests  # type: ignore[operator]
        cursor = report.cursor
        if not cursor:
            break
    assert checked == len(paper.keys("packs/"))
    with pytest.raises(JobFailure):
        verify_packs(paper, cancelled=lambda: True)


def test_a_check_without_a_key_comes_to_every_sealed_object_in_small_steps(
    scene: Scene, paper: PaperStore
) -> None:
    spoiled = [paper.keys("points/")[-1], paper.keys("index/")[0]]
    for key in spoiled:
        spoil(paper, key)
    found: list[str] = []
    cursor = ""
    for budget in (Budget(bytes=1), *[Budget(requests=len(paper.keys()) // 2 + 8)] * 10):
        report = verify_packs(paper, budget=budget, cursor=cursor)
        found += [finding.object for finding in report.findings]
        cursor = report.cursor
        if not cursor:
            break
    assert not cursor
    assert sorted(found) == sorted(spoiled)


# ── forecast ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_forecast_is_about_what_a_verification_costs(
    scene: Scene, paper: PaperStore, mode: VerifyMode
) -> None:
    for number in range(5):
        scene.backup(f"more-{number}", small_disk(*range(401 + number, 500, 2)), vm=f"vm-{number}")
    watched = FaultyStore(paper)
    there = scene.reopened(watched)
    expected = there.vault.forecast(mode, sample=30)
    before = len(watched.log)
    report = there.vault.verify(mode, sample=30)
    made = len(watched.log) - before
    assert made / 2 <= expected.requests <= 2 * made
    assert abs(report.requests - made) <= len(paper.keys("points/")) + 4
    if mode in (VerifyMode.PACKS, VerifyMode.CHUNKS):
        assert stored(paper) <= expected.bytes <= 2 * stored(paper)


def test_a_forecast_without_a_key_is_what_it_costs(scene: Scene, paper: PaperStore) -> None:
    expected = forecast_packs(paper)
    report = verify_packs(paper)
    assert abs(expected.requests - report.requests) <= 2
    assert stored(paper) <= expected.bytes <= 1.5 * stored(paper)


# ── what the next backups heal ───────────────────────────────────────────────────────────────────


def test_damage_says_what_the_next_backup_heals_and_then_that_it_is_healed(
    scene: Scene, paper: PaperStore, clock: FakeClock
) -> None:
    """Web has changed its chunk 1 since: its old content is nowhere else, that of chunk 0 is."""
    clock.advance(hours=1)
    scene.backup("web-2", small_disk(1, 777, *range(5, 60, 2)))
    older = scene.reopened()
    for chunk in (0, 1):
        spoil(paper, pack_with(older, "web", chunk), at_of(older, chunk))
    report = scene.reopened().vault.verify("chunks")
    first, second = (health for health in report.hurt if health.vm == "web")
    assert (first.disks[0].hurt_bytes, first.disks[0].healable_bytes) == (
        2 * SMALL_CHUNK,
        SMALL_CHUNK,
    )
    assert (second.disks[0].hurt_bytes, second.disks[0].healable_bytes) == (
        SMALL_CHUNK,
        SMALL_CHUNK,
    )
    assert second.healable
    assert not first.healable

    clock.advance(hours=1)
    scene.reopened().backup("web-3", small_disk(1, 777, *range(5, 60, 2)))
    after = scene.reopened().vault.verify("structure")
    (still,) = after.hurt
    assert still.point_id == first.point_id
    (lost,) = still.disks[0].ranges
    assert (lost.offset_bytes, lost.length_bytes, lost.heals) == (SMALL_CHUNK, SMALL_CHUNK, False)
    assert still.disks[0].healable_bytes == 0


def at_of(scene: Scene, chunk: int) -> int:
    oldest = min(scene.vault.points("web"), key=lambda point: point.taken_at)
    ref = scene.vault.manifest(oldest.id).maps[0]
    place = scene.vault.contents.index.locate(DiskMap(scene.vault.contents, ref).chunk(chunk))
    assert place is not None
    return place.offset + 20


def test_each_damage_is_healed_by_itself(scene: Scene, paper: PaperStore) -> None:
    """One VM's next backup heals its packs; that of the other stays damaged, and is said to be."""
    web, mail = (pack_with(scene, vm, 0) for vm in ("web", "mail"))
    for key in (web, mail):
        spoil(paper, key)
    assert {health.vm for health in scene.reopened().vault.verify("packs").hurt} == {"web", "mail"}
    scene.reopened().backup("web-2", WEB)
    for mode in ("structure", "packs", "chunks"):
        report = scene.reopened().vault.verify(mode)
        assert {health.vm for health in report.hurt} == {"mail"}
        assert {f.object: f.healed for f in report.findings} == {web: True, mail: False}
    scene.reopened().backup("mail-2", MAIL, vm="mail")
    report = scene.reopened().vault.verify("chunks")
    assert report.intact
    assert all(finding.healed for finding in report.findings)


# ── beside others ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", list(VerifyMode))
def test_a_collection_in_the_midst_of_a_verification_is_no_damage(
    scene: Scene, paper: PaperStore, clock: FakeClock, mode: VerifyMode
) -> None:
    """Packs are copied out of, and deleted, while they are looked at."""
    clock.advance(hours=2)
    scene.backup("short", small_disk(1, 3, 5, 701, 703), vm="short")
    clock.advance(hours=2)
    scene.delete(scene.vault.points("web")[0])
    clock.advance(hours=2)
    doomed = set(paper.keys("packs/"))
    watched = FaultyStore(paper)
    there = scene.reopened(watched)
    began = len(watched.log)

    def collect(call: object) -> None:
        if len(watched.log) == began + 14:
            for _ in range(4):
                clock.advance(hours=30)
                other = scene.reopened()
                other.vault.collect(other.vault.plan_collect())

    watched.before = collect
    report = there.vault.verify(mode, sample=60, seed=3)
    assert doomed - set(paper.keys("packs/")), "something was collected"
    assert report.findings == ()
    assert report.hurt == ()
    assert scene.reopened().vault.verify("chunks").intact


def test_damage_that_is_found_again_is_recorded_once(scene: Scene, paper: PaperStore) -> None:
    spoil(paper, pack_with(scene, "web", 0))
    for _ in range(3):
        assert scene.reopened().vault.verify("chunks").verdict is Verdict.DAMAGED
    assert len(paper.keys("damage/")) == 1


# ── what a process believes to know ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cached", [True, False], ids=["from a cache", "in an open process"])
@pytest.mark.parametrize("mode", ["structure", "packs", "chunks"])
def test_a_segment_that_is_damaged_since_it_was_read_is_found_and_written_anew(
    scene: Scene, paper: PaperStore, tmp_path: Path, mode: str, cached: bool
) -> None:
    store = CachingStore(paper, IndexCache(tmp_path)) if cached else paper
    there = scene.reopened(store)
    spoiled = paper.keys("index/")[0]
    spoil(paper, spoiled)
    assert [f.object for f in verify_packs(store).findings] == [spoiled]
    report = there.vault.verify(mode)
    assert [(f.code, f.object, f.healed) for f in report.findings] == [
        ("vault.corrupt-index", spoiled, True)
    ]
    assert spoiled not in paper.keys("index/")
    assert there.vault.verify(mode).findings == ()
    assert verify_packs(paper).findings == ()
    assert scene.reopened().vault.contents.refresh(scan_unindexed=True).unindexed == 0


def test_damage_on_a_store_that_may_only_be_read_is_reported(
    scene: Scene, paper: PaperStore
) -> None:
    spoil(paper, pack_with(scene, "web", 0))
    for mode in ("packs", "chunks"):
        far = FaultyStore(paper)
        far.rules.append(Rule("put", Fault.READ_ONLY, "", 0))
        report = scene.reopened(far).vault.verify(mode)
        assert report.verdict is Verdict.DAMAGED
        assert [health.vm for health in report.hurt] == ["web"]
        assert "not recorded" in report.findings[0].detail


@pytest.mark.parametrize("mode", ["packs", "chunks"])
def test_a_read_that_is_spoilt_on_its_way_is_no_damage(
    scene: Scene, paper: PaperStore, mode: str
) -> None:
    far = FaultyStore(paper)
    there = scene.reopened(far)
    far.rules.append(Rule("get_range", Fault.WRONG_BYTES, "packs/"))
    assert there.vault.verify(mode).intact
    assert far.shown[Fault.WRONG_BYTES] == 1
    assert not paper.keys("damage/")


@pytest.mark.parametrize("folder", ["damage", "garbage"])
def test_nothing_is_collected_while_a_record_is_unreadable_and_verification_mends_it(
    scene: Scene, paper: PaperStore, folder: str
) -> None:
    spoil(paper, pack_with(scene, "web", 0))
    scene.reopened().vault.verify("chunks")
    scene.clock.advance(hours=5)
    point = scene.reopened().backup("web-2", WEB)
    scene.clock.advance(hours=5)
    values = {"at": scene.clock(), "packs": []}
    scene.vault.contents.records.put("garbage/00", "garbage", values)
    record = paper.keys(f"{folder}/")[0]
    spoil(paper, record, 60)
    report = scene.reopened().vault.verify("structure")
    assert ("vault.corrupt-record", record) in {(f.code, f.object) for f in report.findings}
    if folder == "damage":
        assert report.verdict is Verdict.DAMAGED
        with pytest.raises(Failure) as refused:
            scene.reopened().collect_fully()
        assert refused.value.code == "vault.collect-refused"
        assert refused.value.evidence[0].source == record
        assert scene.reopened().vault.verify("packs").intact
    assert not paper.keys(record)
    scene.reopened().collect_fully()
    assert scene.reopened().restore(point) == WEB
