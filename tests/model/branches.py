"""An executable model of the branches of a job's history (src/domain/branch.rs): what a higher revision means after Redis
has lost data.

One job, two replicas A and B that hold it, one Redis. All states within the bounds are explored breadth-first, so each
trace is a shortest one. Checked in each state: a change that a replica acknowledged is in the record, in a replica, or in
a report of discarded changes. `python3 tests/model/branches.py` takes seconds, with `--full` minutes.

A version is written `r3:FAILED(changes 1,4; x4@2<L1)`: revision 3, made from the changes 1 and 4, in the branch x4, which
was continued from revision 2 of the branch L1.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Branch:
    lineage: int
    name: str
    base: int
    parent: str = ""

    def parent_at(self, revision: int) -> str:
        """The version with which a branch began is in its parent, too."""
        return self.parent if self.parent and revision <= self.base else self.name


@dataclass(frozen=True)
class Version:
    revision: int
    change: int
    made_from: frozenset[int]
    end: str
    durable: int
    branch: Branch

    def __str__(self) -> str:
        changes = ",".join(map(str, sorted(self.made_from)))
        branch = f"{self.branch.name}@{self.branch.base}<{self.branch.parent}"
        return f"r{self.revision}:{self.end or 'RUNNING'}(changes {changes}; {branch})"

    def is_same(self, other: Version | None) -> bool:
        return other is not None and (self.revision, self.change) == (other.revision, other.change)

    def rank(self) -> tuple[bool, int, bool, int]:
        """The greater version wins a merge: the durable end that was stored first, then an end, then the later change."""
        return (self.durable > 0, -self.durable, bool(self.end), self.change)


@dataclass(frozen=True)
class Replica:
    name: str
    serves: bool
    lineage: int
    held: Version
    dirty: bool
    base: Version
    unanswered: bool = False
    """Redis may have executed a change of this replica that the held version was not made from."""
    sent: Version | None = None
    """The held version as of the write under way, which Redis has executed and whose answer has not arrived."""
    written: Version | None = None


@dataclass(frozen=True)
class State:
    record: Version | None
    copy: Version | None
    lineage: int
    replicas: tuple[Replica, Replica]
    next_change: int
    writes: int
    faults: int
    acknowledged: frozenset[int]
    reported: frozenset[int]
    processes: tuple[tuple[int, str], ...]
    ended: frozenset[str]
    ends: int


class ViolationError(Exception):
    pass


@dataclass(frozen=True)
class Rules:
    """The rules, and the bounds of a run."""

    branches: bool = True
    answers: bool = True
    """Further changes wait for the answer to a write. The answer replaces the version that the write replaced, unless
    the lineage has changed meanwhile: then it is no answer."""
    writes: int = 3
    faults: int = 1
    kinds: frozenset[str] = frozenset()
    """Needless doubts, of which a double fault may cause some, are violations as well."""
    exact: bool = True

    def is_made_from(self, version: Version, other: Version) -> bool:
        if version.revision <= other.revision:
            return False
        if not self.branches:
            return True
        own, its = version.branch, other.branch
        names = [its.name, *([its.parent] if other.revision <= its.base else [])]
        return any(own.name == name or (own.parent == name and other.revision <= own.base) for name in names)

    def start(self) -> State:
        first = Version(1, 1, frozenset({1}), "", 0, Branch(1, "L1", 1))
        replicas = (Replica("A", True, 1, first, False, first), Replica("B", True, 1, first, False, first))
        return State(
            first, None, 1, replicas, 2, self.writes, self.faults, frozenset({1}), frozenset(), ((1, "A"),), frozenset(), 0
        )

    def next(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self.losses(state)
        for replica in state.replicas:
            yield from self.steps(state, replica)

    def losses(self, state: State) -> Iterator[tuple[str, State]]:
        if not state.faults:
            return
        if state.copy is None and state.record and "old copy" in self.kinds:
            yield "Redis is copied", replace(state, copy=state.record)
        cut_off = tuple(replace(replica, serves=False) for replica in state.replicas)
        changed = replace(state, faults=state.faults - 1, lineage=state.lineage + 1)
        if "restart" in self.kinds:
            yield "Redis restarts with its data", replace(changed, replicas=cut_off)
        if "old copy" in self.kinds and state.copy:
            yield "Redis restarts from the old copy", replace(changed, record=state.copy, replicas=cut_off)
        if "empty" in self.kinds:
            yield "Redis restarts empty", replace(changed, record=None, copy=None, replicas=cut_off)
        if "unnoticed" in self.kinds and state.record:
            yield "Redis loses everything, and nobody is cut off", replace(changed, record=None, copy=None)

    def steps(self, state: State, replica: Replica) -> Iterator[tuple[str, State]]:
        name, held, record = replica.name, replica.held, state.record
        if replica.serves and state.faults and "cut off" in self.kinds:
            cut_off = replace(replica, serves=False)
            yield f"{name} is cut off", with_replica(replace(state, faults=state.faults - 1), cut_off)
        if replica.serves and replica.lineage != state.lineage:
            yield f"{name} notices the loss", with_replica(state, replace(replica, serves=False))
        if replica.written:
            yield f"{name} receives the answer: {replica.written}, DURABLE", self.answer(state, replica)
        if not replica.serves:
            yield f"{name} reconciles", self.push(state, replace(replica, serves=True, lineage=state.lineage))
        elif replica.dirty:
            yield f"{name} pushes", self.push(state, replica)
        elif record is None:
            yield f"{name} finds no record", with_replica(state, replace(replica, dirty=True))
        elif not record.is_same(held):
            yield from self.read(state, replica, record)
        elif record.branch != held.branch:
            yield f"{name} reads the same version", with_replica(state, replace(replica, held=record, base=record))
        if replica.written and self.answers:
            # Further changes wait for the answer.
            return
        for end in ("", f"END-{name}"):
            if state.writes and not held.end and not (end and name in state.ended):
                yield from self.write(state, replica, end, 1)
        if state.writes > 1 and not held.end and "group" in self.kinds:
            yield from self.write(state, replica, "", 2)

    def read(self, state: State, replica: Replica, record: Version) -> Iterator[tuple[str, State]]:
        held = replica.held
        if record.revision < held.revision:
            return
        if record.revision == held.revision or (self.branches and not self.is_made_from(record, held)):
            if self.exact and replica.lineage == state.lineage and held.made_from <= record.made_from:
                raise ViolationError(f"{replica.name} sees a loss where there is none: {held} and {record}")
            yield f"{replica.name} reads {record}: a loss", with_replica(state, replace(replica, serves=False))
        else:
            known = replace(replica, held=record, base=record, unanswered=False)
            yield f"{replica.name} reads {record}", with_replica(state, known)

    def write(self, state: State, replica: Replica, end: str, count: int) -> Iterator[tuple[str, State]]:
        """Makes `count` changes one after another, of which only the last version is stored."""
        held, record = replica.held, state.record
        changes = frozenset(range(state.next_change, state.next_change + count))
        version = Version(held.revision + count, max(changes), held.made_from | changes, end, 0, held.branch)
        after = replace(
            state,
            next_change=state.next_change + count,
            writes=state.writes - count,
            acknowledged=state.acknowledged | changes,
            processes=(*state.processes, *((change, replica.name) for change in sorted(changes))),
            ended=state.ended | ({replica.name} if end else set()),
        )
        word = f"{replica.name} {'ends' if end else 'reports'}{'' if count == 1 else f' {count} times'}"
        if not replica.serves:
            yield f"{word}: {version}, VOLATILE", with_replica(after, replace(replica, held=version, dirty=True))
        elif not replica.dirty and record is not None and record.is_same(held):
            written, stored = store(after, replace(version, branch=continued(record, version, replica.lineage)))
            clean = replace(replica, held=written, base=written, unanswered=False)
            yield f"{word}: {written}, DURABLE", with_replica(stored, clean)
            if state.faults and "no answer" in self.kinds:
                dirty = replace(replica, held=version, dirty=True)
                yield f"{word}: no answer, VOLATILE", with_replica(replace(stored, faults=state.faults - 1), dirty)
            if state.faults and "leaving" in self.kinds:
                left = replace(stored, faults=state.faults - 1, acknowledged=state.acknowledged)
                yield f"{word}: {written}, executed, and the caller leaves", with_replica(left, replace(replica, unanswered=True))
            if "late answer" in self.kinds and not replica.written:
                waiting = replace(replica, sent=held, written=written)
                yield f"{word}: {written}, executed", with_replica(replace(stored, acknowledged=state.acknowledged), waiting)

    def answer(self, state: State, replica: Replica) -> State:
        held, sent, written = replica.held, replica.sent, replica.written
        replica = replace(replica, sent=None, written=None)
        after = replace(state, acknowledged=state.acknowledged | {written.change})
        if not self.answers:
            is_taken = held.is_same(sent) and replica.serves and not replica.dirty
            return with_replica(after, replace(replica, held=written, base=written) if is_taken else replica)
        if written.branch.lineage == replica.lineage and held.is_same(sent):
            return with_replica(after, replace(replica, held=written, dirty=False, base=written))
        if held.is_same(written) or written.branch.lineage == replica.lineage and self.is_made_from(held, written):
            return with_replica(after, replica)
        # As if no answer had arrived: the change is accepted here, or applied to the version that is held now.
        if held.is_same(sent):
            return with_replica(after, replace(replica, held=replace(written, branch=held.branch, durable=0), dirty=True))
        return with_replica(state, replica)

    def push(self, state: State, replica: Replica) -> State:
        held, record = replica.held, state.record
        base = replica.base.revision if replica.dirty else held.revision
        fresh = f"x{state.next_change}"
        state = replace(state, next_change=state.next_change + 1)
        if record is None:
            branch = Branch(replica.lineage, fresh, base, held.branch.parent_at(base))
            return self.pushed(state, replica, replace(held, branch=branch))
        if held.change == record.change:
            winner = loser = held if held.revision >= record.revision else record
        else:
            winner, loser = (held, record) if held.rank() >= record.rank() else (record, held)
        if winner is not loser and self.is_apart(state, replica, record, winner):
            discarded = loser.made_from - winner.made_from
            if self.exact and not discarded and not replica.dirty:
                raise ViolationError(f"a conflict without a discarded change: {held} with {record}")
            state = replace(state, reported=state.reported | discarded)
        is_raised = winner.change != loser.change and winner.revision <= loser.revision
        merged = replace(winner, revision=loser.revision + 1) if is_raised else winner
        if merged.is_same(record):
            return with_replica(state, replace(replica, held=record, dirty=False, base=record, unanswered=False))
        is_continued = winner is record or record.is_same(replica.base) or held.branch == record.branch
        if is_continued:
            branch = continued(record, merged, replica.lineage)
        else:
            name = record.branch.name if record.branch.lineage == replica.lineage else fresh
            branch = Branch(replica.lineage, name, base, held.branch.parent_at(base))
        return self.pushed(state, replica, replace(merged, branch=branch))

    def pushed(self, state: State, replica: Replica, version: Version) -> State:
        written, stored = store(state, version)
        return with_replica(stored, replace(replica, held=written, dirty=False, base=written, unanswered=False))

    def is_apart(self, state: State, replica: Replica, record: Version, winner: Version) -> bool:
        held, processes = replica.held, dict(state.processes)
        if replica.dirty:
            is_other = processes[held.change] != processes[record.change]
            return not record.is_same(replica.base) and (is_other or self.answers and replica.unanswered)
        if not self.branches:
            return record.change > held.change if winner is held else record.revision <= held.revision
        return not self.is_made_from(record, held) and not self.is_made_from(held, record)


def with_replica(state: State, replica: Replica) -> State:
    a, b = state.replicas
    return replace(state, replicas=(replica, b) if replica.name == "A" else (a, replica))


def continued(record: Version, version: Version, lineage: int) -> Branch:
    """Returns the branch of a version that replaces the record: another one only in another lineage."""
    there = record.branch
    if there.lineage == lineage:
        return there
    return Branch(lineage, f"c{version.change}", record.revision, there.parent_at(record.revision))


def store(state: State, version: Version) -> tuple[Version, State]:
    """Stores a version, with the order in which ends are stored."""
    if version.end and not version.durable:
        state = replace(state, ends=state.ends + 1)
        version = replace(version, durable=state.ends)
    return version, replace(state, record=version)


def explore(rules: Rules) -> tuple[int, str | None, list[str]]:
    """Returns the number of states, the violation if there is one, and its trace."""
    start = rules.start()
    seen: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        try:
            for word, after in rules.next(state):
                if after in seen:
                    continue
                seen[after] = (state, word)
                known = after.reported | (after.record.made_from if after.record else frozenset())
                known = known.union(*(replica.held.made_from for replica in after.replicas))
                if after.acknowledged - known:
                    state = after
                    raise ViolationError(f"changes {sorted(after.acknowledged - known)} are lost, and no report has them")
                queue.append(after)
        except ViolationError as violation:
            trace, step = [], seen[state]
            while step is not None:
                trace.append(step[1])
                step = seen[step[0]]
            return len(seen), str(violation), trace[::-1]
    return len(seen), None, []


def main() -> None:
    def of(*kinds: str) -> frozenset[str]:
        return frozenset(kinds)

    runs = [
        ("without branches, an unnoticed loss", True, Rules(branches=False, kinds=of("unnoticed"))),
        ("without branches, an old copy", True, Rules(branches=False, kinds=of("old copy"))),
        (
            "without the rule for answers, a restart",
            True,
            Rules(answers=False, kinds=of("late answer", "restart"), exact=False),
        ),
        (
            "without the rule for answers, a caller leaves",
            True,
            Rules(answers=False, kinds=of("leaving", "restart"), faults=2, exact=False),
        ),
        ("callers leave, and a restart", False, Rules(kinds=of("leaving", "restart"), faults=2, writes=3, exact=False)),
        ("late answers, and a restart", False, Rules(kinds=of("late answer", "restart"), exact=False)),
        ("late answers, and a loss", False, Rules(kinds=of("late answer", "unnoticed"), writes=2, exact=False)),
        ("a restart", False, Rules(kinds=of("restart"), writes=4)),
        ("reports that are stored together, and a loss", False, Rules(kinds=of("group", "unnoticed", "restart"), exact=False)),
        ("one loss", False, Rules(kinds=of("unnoticed", "old copy", "empty", "restart"), exact=False)),
        ("an old copy, and another fault", False, Rules(kinds=of("old copy", "cut off"), faults=2, exact=False, writes=2)),
    ]
    if "--full" in sys.argv:
        runs += [
            ("one loss", False, Rules(kinds=of("unnoticed", "old copy", "empty", "restart"), writes=4, exact=False)),
            ("late answers, and a loss", False, Rules(kinds=of("late answer", "unnoticed", "empty"), exact=False)),
            (
                "late answers, callers that leave, and an old copy",
                False,
                Rules(kinds=of("late answer", "leaving", "old copy"), faults=2, exact=False),
            ),
            ("an old copy", False, Rules(kinds=of("old copy", "cut off", "no answer"), faults=2, exact=False)),
            ("an unnoticed loss", False, Rules(kinds=of("unnoticed", "cut off", "no answer"), faults=2, exact=False)),
            ("restarts", False, Rules(kinds=of("restart"), faults=2, writes=4, exact=False)),
            (
                "reports that are stored together",
                False,
                Rules(kinds=of("group", "old copy", "cut off", "no answer"), writes=4, exact=False),
            ),
            ("two losses", False, Rules(kinds=of("unnoticed", "restart", "empty"), faults=2, exact=False)),
        ]
    failed = False
    for name, is_flawed, rules in runs:
        states, violation, trace = explore(rules)
        print(f"{name}: {states} states, {violation or 'no violation'}")
        if bool(violation) != is_flawed:
            failed = True
            for number, word in enumerate(trace, 1):
                print(f"  {number}. {word}")
    if failed:
        sys.exit("the model does not show what it must")


if __name__ == "__main__":
    main()
