"""Any history of a vault whose packs are damaged now and then: flipped, cut short, deleted; found
by verifications, healed by backups, mended from outside.

What a point needs follows from its disk alone, and what is sound from the bytes that were stored,
so that it can be said after every step, without the vault, which points must read:

· A point all of whose blobs lie sound in some pack that the index tells of reads bit for bit.
· Any other gives its bytes or says by a code why it cannot.
· Were all damage undone, every point would read: nothing deletes what may be mended.
· A point is hurt by damage alone: by a collection, or when it is made, only while the damage is not
  known, or to work that began before it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from datetime import timedelta

from doubts import BadCopy, Doubts
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from small_vault import SMALL_CHUNK
from vault_model import HOSTS, MOST_POINTS, TOLD, Job
from vault_scene import Scene
from vault_trouble import SPOILT, TroubledVault, spoilt

from quiesce.model.failure import Failure
from quiesce.vault.format.diskmap import PART_BYTES, ZERO_ID
from quiesce.vault.format.keys import VaultKeys
from quiesce.vault.format.pack import HEAD_BYTES, Entry, Kind, blob_id, pack_name, whole_footer

MODES = st.sampled_from(["packs", "chunks"])
UNREADABLE = {"vault.corrupt-chunk", "vault.pack-missing"}


def needs_of(keys: VaultKeys, disk: bytes) -> frozenset[bytes]:
    """Ids of all blobs of a disk of less than 256 chunks."""
    ids = []
    for at in range(0, len(disk), SMALL_CHUNK):
        chunk = disk[at : at + SMALL_CHUNK]
        ids.append(blob_id(keys, Kind.CHUNK, chunk) if any(chunk) else ZERO_ID)
    leaf = blob_id(keys, Kind.MAP, b"".join(ids).ljust(PART_BYTES, b"\0"))
    node = blob_id(keys, Kind.MAP, leaf.ljust(PART_BYTES, b"\0"))
    return frozenset({*ids, leaf, node} - {ZERO_ID})


class DamagedVault(TroubledVault):
    def __init__(self) -> None:
        super().__init__()
        self.pristine: dict[str, bytes] = {}
        """Damaged packs as they were."""
        self.taken: set[str] = set()
        """Of these the deleted ones."""
        self.entries: dict[str, list[Entry]] = {}
        self.needs: dict[str, frozenset[bytes]] = {}
        self.sound: set[str] = set()
        """Jobs whose points were sound when last looked at."""
        self.seen: set[str] = set()
        self.backups_doubt, self.all_doubt = Doubts(), Doubts()
        self.records: dict[str, tuple[bytes, frozenset[bytes]]] = {}
        """Damage records that could be read once."""
        self.ever_damaged = False

    @property
    def keys(self) -> VaultKeys:
        return self.hosts[0].scene.vault.contents.keys

    # ── what befalls packs ───────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.sound and len(self.pristine) < 4)
    @rule(which=st.integers(0, 40), how=SPOILT | st.just("removed"), at=st.floats(0.0, 1.0))
    def damage(self, which: int, how: str, at: float) -> None:
        packs = [key for key in self.store.keys("packs/") if key not in self.pristine]
        if not packs:
            return
        key = packs[which % len(packs)]
        TOLD[f"packs {how}"] += 1
        self._entries_of(key)
        self.ever_damaged = True
        whole = self.pristine[key] = self.store.objects[key][0]
        if how == "removed":
            self.taken.add(key)
            del self.store.objects[key]
        else:
            self.store.change(key, spoilt(whole, how, at))
        self._look(damaging=True)

    @precondition(lambda self: self.pristine)
    @rule(which=st.integers(0, 4))
    def mend(self, which: int) -> None:
        """From another copy of the vault, if it is still wanted."""
        key = sorted(self.pristine)[which % len(self.pristine)]
        self._mend(key)

    def _mend(self, key: str) -> None:
        TOLD["packs mended"] += 1
        whole = self.pristine.pop(key)
        if key in self.taken or key in self.store.objects:
            self.store.objects[key] = whole, self.clock.now
        self.taken.discard(key)

    @precondition(lambda self: self.pristine)
    @rule(host=st.integers(0, HOSTS - 1), mode=MODES)
    def verify_at_once(self, host: int, mode: str) -> None:
        self.begin_verification(host, mode)
        self.finish_last(host)

    @precondition(lambda self: self.hurt and self.count("backup") < MOST_POINTS)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, 4))
    def back_up_what_is_hurt(self, host: int, which: int) -> None:
        """A disk that still holds it is read in full."""
        hurt = self.jobs[self.hurt[which % len(self.hurt)]]
        name = f"job-{len(self.jobs)}"
        self.jobs[name] = Job(hurt.disk, "mail" if hurt.vm == "far" else hurt.vm)
        self.begin(host, f"backup {name}", lambda scene: self._back_up(scene, name, ""))
        self.finish_last(host)

    @precondition(lambda self: self.hurt and self.count("backup") < MOST_POINTS)
    @rule(host=st.integers(0, HOSTS - 1), which=st.integers(0, 4), mode=MODES)
    def find_and_heal(self, host: int, which: int, mode: str) -> None:
        self.verify_at_once(host, mode)
        self.every_committed_point_restores()
        self.wait(61)
        self.every_committed_point_restores()
        if self.hurt:
            self.back_up_what_is_hurt((host + 1) % HOSTS, which)

    def make_whole(self) -> None:
        for key in list(self.pristine):
            self._mend(key)

    # ── what must hold ───────────────────────────────────────────────────────────────────────

    @property
    def hurt(self) -> list[str]:
        return [name for name in self.committed if name in self.seen - self.sound]

    @property
    def may_leave_out(self) -> bool:
        """A lock keeps damaged packs, for which only the key lets others be made."""
        return self.ever_damaged and bool(self.store.kept_until)

    def foreseen(self, kind: str) -> set[str]:
        more: set[str] = set()
        if self.ever_damaged:
            more = {"collection": {"vault.collect-refused"}, "restore": UNREADABLE}.get(kind, set())
        return super().foreseen(kind) | more

    @invariant()
    def every_committed_point_restores(self) -> None:
        super().every_committed_point_restores()
        if self.hosts:
            self._look()

    def read_whole(self, fresh: Scene, name: str, job: Job) -> None:
        told = fresh.vault.contents.index.knows
        if self._needs(name) <= self._sound_ids(lambda key: told(pack_name(key) or b"")):
            super().read_whole(fresh, name, job)
            return
        try:
            assert fresh.restore(job.point_id) == job.disk, f"{name} reads wrong bytes"
        except Failure as failure:
            if failure.code not in UNREADABLE:
                raise
            TOLD["hurt points that said so"] += 1

    def _look(self, *, damaging: bool = False) -> None:
        """Who is hurt, and whether that may be."""
        when = self.actors, self.clock.now, timedelta(seconds=self.late)
        # While a record is unreadable nothing is collected, but backups rely on what it told of.
        by_backups = self.backups_doubt.look(self._bad_copies(self._recorded(rotten=False)), *when)
        by_all = self.all_doubt.look(self._bad_copies(self._recorded(rotten=True)), *when)
        good, mendable = self._sound_ids(), self._mendable_ids()
        listed = set(self.committed)
        for name in listed:
            needs = self._needs(name)
            assert needs <= mendable, f"what {name} needs was deleted"
            lost = needs - good
            if lost and (name in self.sound or name not in self.seen) and not damaging:
                how = "became" if name in self.seen else "was born"
                doubted = by_all if name in self.seen else by_backups
                # Records of damage are sealed: a stated limit of copies without the key.
                unseen = name in self.unseeing - self.seen
                assert unseen or lost <= doubted, f"{name} {how} hurt by damage that was known"
                TOLD[f"points that {how} hurt by damage not known yet"] += 1
            TOLD["points hurt"] += bool(lost and name in self.sound and damaging)
            TOLD["points healed or mended"] += not lost and name in self.seen - self.sound
            (self.sound.discard if lost else self.sound.add)(name)
        self.seen |= listed
        self.sound &= listed

    def _bad_copies(self, recorded: Mapping[bytes, Set[bytes]]) -> list[BadCopy]:
        """A pack that is gone, or shorter, tells so itself."""
        found = []
        for key, whole in self.pristine.items():
            there = self.store.objects[key][0] if key in self.store.objects else b""
            known = recorded.get(pack_name(key) or b"", frozenset())
            found += [
                BadCopy(key, entry.id, len(there) != len(whole) or entry.id in known)
                for entry in self._entries_of(key)
                if not _is_whole(entry, there, whole)
            ]
        return found

    def _recorded(self, *, rotten: bool) -> dict[bytes, set[bytes]]:
        """Damage by pack of which a record tells; with those that were readable once."""
        records = Scene.at(self.store, self.clock).vault.contents.records
        readable = {key: (pack, blobs) for key, pack, blobs in records._damage()}
        self.records.update(readable)
        found: dict[bytes, set[bytes]] = {}
        for key in self.store.keys("damage/") if rotten else readable:
            pack, blobs = self.records.get(key, (b"", frozenset()))
            found.setdefault(pack, set()).update(blobs)
        return found

    def _needs(self, name: str) -> frozenset[bytes]:
        if name not in self.needs:
            self.needs[name] = needs_of(self.keys, self.jobs[name].disk)
        return self.needs[name]

    def _entries_of(self, key: str) -> list[Entry]:
        if key not in self.entries:
            self.entries[key] = whole_footer(self.keys, memoryview(self.store.objects[key][0]))
        return self.entries[key]

    def _sound_ids(self, counts: Callable[[str], bool] = lambda key: True) -> set[bytes]:
        found = set()
        for key in filter(counts, self.store.keys("packs/")):
            data = self.store.objects[key][0]
            whole = self.pristine.get(key, data)
            found |= {e.id for e in self._entries_of(key) if _is_whole(e, data, whole)}
        return found

    def _mendable_ids(self) -> set[bytes]:
        there = {*self.store.keys("packs/"), *self.taken}
        return {entry.id for key in there for entry in self._entries_of(key)}


def _is_whole(entry: Entry, data: bytes, whole: bytes) -> bool:
    end = entry.offset + entry.length
    return (
        len(data) == len(whole)
        and data[:HEAD_BYTES] == whole[:HEAD_BYTES]
        and data[entry.offset : end] == whole[entry.offset : end]
    )
