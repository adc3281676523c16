"""How accepted events become rows: deduplicated, enriched, written, the unwritable set aside.

Everything happens in the caller's transaction. Hides the statements, what counts as an event's own fault, and
how the one bad event among thousands is found. It must not know of the queue.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

import psycopg
import structlog
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from storage.arrays import recurring_uuid_bytes, time_array, uuid_array, uuid_bytes
from storage.dedup import dedup_key
from storage.duplicates import insert_duplicates
from storage.enrich import Enricher
from storage.group_links import insert_group_links
from storage.identity_links import insert_identity_links
from storage.partitions import Partitions
from storage.prepared import PreparedEvent
from storage.quarantine_rows import insert_quarantined, remove_quarantined, unwritable, words_of
from storage.reckoning import Reckoning
from storage.rollup_queue import enqueue_rollup
from storage.rows import COPY, row_of, write_rows
from storage.sessions import extend_sessions
from storage.values import END_OF_TIME_SECONDS, MICROS_PER_SECOND

Clock = Callable[[], datetime]
Connection = psycopg.Connection[Any]
NoteQuarantined = Callable[[Sequence[QuarantinedEvent]], None]
"""Hears of entries as they are written; their transaction may yet fail."""

# Gives the events whose key nobody had within the window: they alone insert or renew a row. Their ids in one
# value: a row each costs the worker 4,000 instructions.
_REMEMBER = """
WITH remembered AS (
    INSERT INTO dedup_keys (source_id, dedup_key, event_id, received_at)
    SELECT * FROM unnest(%s, %s, %s, %s)
    ON CONFLICT (source_id, dedup_key) DO UPDATE
    SET event_id = excluded.event_id, received_at = excluded.received_at
    WHERE dedup_keys.received_at < excluded.received_at - %s
    RETURNING event_id
)
SELECT coalesce(string_agg(uuid_send(event_id), ''), '') FROM remembered
"""

# OFFSET 0: a join might read all events there are.
_PRESENT = """
SELECT uuid_send(asked.event_id) FROM unnest(%s, %s, %s) AS asked (source_id, event_id, received_at)
CROSS JOIN LATERAL (
    SELECT FROM events
    WHERE source_id = asked.source_id AND event_id = asked.event_id AND received_at = asked.received_at
    OFFSET 0
) AS present
"""

# The shape of ids in canonical form, and what turns ids into their shape: a third of what a pattern takes.
_TWO_UUIDS = b"hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh" * 2
_HEX_DIGITS_TO_H = bytes.maketrans(b"0123456789abcdefh", b"h" * 16 + b"?")
_EPOCH_DAY = date(1970, 1, 1)
_UUID_BYTES = 16
_MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND

log = structlog.get_logger()


@dataclass
class Tally:
    """What became of the items of a claim."""

    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0

    def add(self, other: "Tally") -> None:
        """Add another's counts."""
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.quarantined += other.quarantined


@dataclass
class _Claim:
    """The writing of one claim, as far as it is."""

    connection: Connection
    refused: list[QuarantinedEvent]
    reckoning: Reckoning
    tally: Tally = field(default_factory=Tally)
    duplicate_ids: set[str] = field(default_factory=set)
    unwritable: int = 0
    # Whose client's id was stored before.
    dropped: list[PreparedEvent] = field(default_factory=list)

    def note_stored(self, stored: Sequence[PreparedEvent]) -> None:
        """Count events that are in their table now."""
        self.tally.stored += len(stored)
        self.reckoning.stored.update([one.line for one in stored])

    def note_duplicates(self, duplicates: Sequence[PreparedEvent]) -> None:
        """Count events that were not stored again."""
        self.tally.duplicate += len(duplicates)
        self.duplicate_ids.update(one.event.event_id for one in duplicates)
        self.reckoning.duplicate.update([one.line for one in duplicates])

    def refuse(self, event: Event, error: Exception) -> None:
        """Have `event` quarantined. Only a claim's first is logged: a client may send as many as it likes."""
        if not self.unwritable:
            ours = not isinstance(error, psycopg.Error | ValueError)
            log.warning(
                "event_unwritable",
                event_id=event.event_id,
                source_id=event.source_id,
                request_id=event.provenance.request_id,
                error=words_of(error),
                exc_info=error if ours else None,
            )
        self.unwritable += 1
        self.refused.append(unwritable(event, error))


class Writer:
    """Writes events within its caller's transaction; never commits."""

    def __init__(
        self,
        enricher: Enricher,
        partitions: Partitions,
        dedup_window: timedelta,
        clock: Clock,
        note_quarantined: NoteQuarantined = lambda _: None,
    ) -> None:
        """Take what it works with; a `dedup_window` of zero stores every event."""
        self._note_quarantined = note_quarantined
        self._clock = clock
        self._enricher = enricher
        self._partitions = partitions
        self._dedup_window = dedup_window
        self._dedup_window_micros = dedup_window // timedelta(microseconds=1)

    def write(
        self,
        connection: Connection,
        events: Iterable[Event],
        refused: Iterable[QuarantinedEvent],
        reckoning: Reckoning | None = None,
        *,
        replayed: Sequence[Event] = (),
    ) -> Tally:
        """Store `events` in their order, changing them; quarantine `refused` and what can't be stored.

        The same with `replayed`, after them, whose entries leave the quarantine: a replayed event has its
        entry's id, so that one that is there already is a duplicate. What became of each is added to
        `reckoning`.

        Raises the driver's errors, or StorageUnavailable, for what is no event's fault: the transaction must
        then be rolled back, and may be done again.
        """
        claim = _Claim(connection, list(refused), reckoning or Reckoning())
        prepared = self._prepare(claim, chain(events, replayed))
        if prepared:
            self._partitions.ensure(_days_of(prepared))
            self._store(claim, prepared)
        if replayed:
            # Before what can't be stored comes in: that gets the entry it had, anew.
            entries = {(event.source_id, event.event_id) for event in replayed}
            removed = remove_quarantined(connection, entries)
            claim.reckoning.release(replayed, removed, claim.duplicate_ids)
        if claim.refused:
            insert_quarantined(connection, claim.refused, self._clock())
            self._note_quarantined(claim.refused)
            claim.tally.quarantined = len(claim.refused)
            # What has no id is no event but a row of the queue, reckoned when it was claimed.
            claim.reckoning.quarantine(entry for entry in claim.refused if entry.quarantine_id)
        if claim.dropped:
            insert_duplicates(connection, claim.dropped)
        if claim.unwritable > 1:
            log.warning("more_events_unwritable", count=claim.unwritable)
        return claim.tally

    def _prepare(self, claim: _Claim, events: Iterable[Event]) -> list[PreparedEvent]:
        prepared: dict[bytes, PreparedEvent] = {}
        for event in events:
            try:
                one = self._prepare_one(event)
            except MemoryError:
                raise
            except Exception as error:
                # A pure function of the event failed: it would again, however often it is tried.
                claim.refuse(event, error)
                continue
            if prepared.setdefault(one.event_id, one) is not one:
                claim.note_duplicates((one,))
        return list(prepared.values())

    def _prepare_one(self, event: Event) -> PreparedEvent:
        event_id, source_id, received_at = event.event_id, event.source_id, event.received_at
        if (event_id + source_id).encode().translate(_HEX_DIGITS_TO_H) != _TWO_UUIDS:
            raise ValueError("event_id or source_id is no uuid in canonical form")
        seconds = received_at.seconds
        if not 0 <= seconds < END_OF_TIME_SECONDS:
            raise ValueError(f"received_at is out of range: {seconds} s")
        self._enricher.enrich(event)
        key = dedup_key(event) if self._dedup_window else None
        return PreparedEvent(
            event,
            uuid_bytes(event_id),
            recurring_uuid_bytes(source_id),
            row_of(event),
            bytes.fromhex(key) if key else None,
            seconds * MICROS_PER_SECOND + received_at.nanos // 1000,
        )

    def _store(self, claim: _Claim, prepared: Sequence[PreparedEvent]) -> None:
        """Store all, or find out which can't be. In order: of two with one key the first wins."""
        try:
            with claim.connection.transaction():
                fresh = self._insert(claim.connection, prepared)
        except psycopg.Error as error:
            if not _is_events_fault(error):
                raise
            self._isolate(claim, prepared, error)
        else:
            claim.note_stored(fresh)
            if len(fresh) < len(prepared):
                stored = {one.event_id for one in fresh}
                dropped = [one for one in prepared if one.event_id not in stored]
                claim.note_duplicates(dropped)
                claim.dropped += dropped

    def _isolate(self, claim: _Claim, prepared: Sequence[PreparedEvent], error: psycopg.Error) -> None:
        """Store what can be after `error`, by halves; quarantine an event that fails alone."""
        if isinstance(error, psycopg.errors.CheckViolation) and self._partitions.restore(_days_of(prepared)):
            # A partition was gone: another worker's retention dropped it since we looked.
            self._store(claim, prepared)
            return
        if isinstance(error, psycopg.errors.UniqueViolation):
            # A batch was queued twice: the core lost the connection at the commit, and tried again.
            absent = _absent(claim.connection, prepared)
            if len(absent) < len(prepared):
                missing = {one.event_id for one in absent}
                claim.note_duplicates([one for one in prepared if one.event_id not in missing])
                self._store(claim, absent)
                return
        if len(prepared) == 1:
            claim.refuse(prepared[0].event, error)
            return
        middle = len(prepared) // 2
        self._store(claim, prepared[:middle])
        self._store(claim, prepared[middle:])

    def _insert(self, connection: Connection, prepared: Sequence[PreparedEvent]) -> Sequence[PreparedEvent]:
        fresh = self._without_duplicates(connection, prepared)
        if fresh:
            with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                write_rows(copy, [one.row for one in fresh])
        insert_identity_links(connection, fresh)
        insert_group_links(connection, fresh)
        extend_sessions(connection, fresh)
        enqueue_rollup(connection, [(one.source_id, one.event_id, one.received_micros) for one in fresh])
        return fresh

    def _without_duplicates(
        self, connection: Connection, prepared: Sequence[PreparedEvent]
    ) -> list[PreparedEvent]:
        """Leave out events whose key another event had within the window; remember the others' keys."""
        pending = [(one.source_id + one.dedup_key, one) for one in prepared if one.dedup_key]
        fresh: set[bytes] = set()
        while pending:
            firsts: dict[bytes, PreparedEvent] = {}
            later = []
            for key, one in pending:
                first = firsts.setdefault(key, one)
                # One statement can touch a key once: what is more than the window later takes another round.
                if one.received_micros - first.received_micros > self._dedup_window_micros:
                    later.append((key, one))
            # Sorted, so that workers with keys in common wait for each other and never in a circle.
            keys = sorted(firsts)
            ordered = [firsts[key] for key in keys]
            columns = (
                uuid_array([one.source_id for one in ordered]),
                uuid_array([key[_UUID_BYTES:] for key in keys]),
                uuid_array([one.event_id for one in ordered]),
                time_array([one.received_micros for one in ordered]),
            )
            found = connection.execute(_REMEMBER, (*columns, self._dedup_window), binary=True).fetchone()
            ids = found[0] if found else b""
            fresh.update([ids[at : at + _UUID_BYTES] for at in range(0, len(ids), _UUID_BYTES)])
            pending = later
        return [one for one in prepared if one.dedup_key is None or one.event_id in fresh]


def _absent(connection: Connection, prepared: Sequence[PreparedEvent]) -> list[PreparedEvent]:
    columns = (
        uuid_array(one.source_id for one in prepared),
        uuid_array(one.event_id for one in prepared),
        time_array(one.received_micros for one in prepared),
    )
    present = {event_id for (event_id,) in connection.execute(_PRESENT, columns, binary=True, prepare=False)}
    return [one for one in prepared if one.event_id not in present]


def _days_of(prepared: Iterable[PreparedEvent]) -> set[date]:
    days = {one.received_micros // _MICROS_PER_DAY for one in prepared}
    return {_EPOCH_DAY + timedelta(days=day) for day in days}


def _is_events_fault(error: psycopg.Error) -> bool:
    """Tell bad data from a bad day of the database.

    Class 54 (program limit exceeded) is the driver's OperationalError, yet it is data: a key too long for its
    index, JSON too deep.
    """
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError) or (error.sqlstate or "")[:2] == "54"
