"""The labs behind a Flower grid: asking them, hearing who failed, going on without them."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from logging import INFO, WARNING
from typing import TypeVar

from flwr.app import RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from fedsc.data.quality import CellFilter
from fedsc.errors import RunError
from fedsc.federated.answers import Data, answer, implausible
from fedsc.federated.bounds import LARGEST, Asked
from fedsc.federated.query import Ask, Question, Sums, add
from fedsc.options import FederationOptions
from protocol.ask import pack_question, read_sums
from protocol.checks import BadReply
from protocol.describe import About
from protocol.quality import pack_filter
from protocol.records import ADDRESSEES, ASK, key, pack_addressees
from protocol.replies import Answers, sort_replies
from server_app.identity import Identities
from server_app.post import Clock, Post
from server_app.roster import Roster
from server_app.traffic import Traffic

_PATIENCE = (10.0, 120.0)
"""Seconds for which labs that failed are waited for before they are asked again, and again.

The second is longer than Flower takes to let a SuperNode that was killed back in (60 to 100 s).
"""

Result = TypeVar("Result")


class LabsLost(RunError):
    """Labs failed to answer a question that needs every lab."""

    def __init__(self, failures: dict[str, str]) -> None:
        super().__init__("; ".join(f"lab {lab}: {why}" for lab, why in failures.items()))
        self.failures = failures


class Federation:
    """Talk to labs by name.

    Parameters
    ----------
    grid
        Flower's connection to the nodes.
    options
        How many labs a run needs, and how long it waits for them.
    run
        ``run`` record that every message carries: name and folder of the run.
    min_cells
        A lab with fewer cells is refused.
    clock
        Tells the time and waits.
    identities
        Hold the names of real labs against the register.

    Attributes
    ----------
    questions
        How many have been put, by what they were for.
    cell_filter
        Which cells labs work with; ``None`` = all.
    """

    def __init__(
        self,
        grid: Grid,
        options: FederationOptions,
        run: dict[str, str],
        min_cells: int = 1,
        clock: Clock = time,
        identities: Identities | None = None,
    ) -> None:
        self.options = options
        self.run = run
        self.questions: Counter[str] = Counter()
        self.cell_filter: CellFilter | None = None
        self._clock = clock
        self._post = Post(grid, clock)
        self._roster = Roster(
            self._post, options, run, min_cells, clock, identities or Identities()
        )
        self._of_phase: dict[str, About] = {}
        self._left_out: dict[str, str] = {}  # of the phase, and why

    @property
    def traffic(self) -> Traffic:
        """What messages have carried so far."""
        return self._post.traffic

    @property
    def labs(self) -> dict[str, About]:
        """Labs that take part in the phase, as they described themselves before, sorted by name.

        Who comes later takes part in the next phase: sums of other cells would not fit together.
        """
        return {lab: a for lab, a in self._of_phase.items() if lab not in self._left_out}

    @property
    def simulated(self) -> bool:
        """Whether the labs are a simulation's: all are, or none."""
        return all(about.simulated for about in self.labs.values())

    @property
    def connected(self) -> list[str]:
        """Labs that take part and are connected, sorted by name."""
        taking_part = self.labs
        return [lab for lab in self._roster.connected if lab in taking_part]

    @property
    def absent(self) -> list[str]:
        """Say why labs or nodes are not in the run, or not in this phase."""
        left_out = [f"lab {lab} was left out at the end: {w}" for lab, w in self._left_out.items()]
        return [*(f"not in this run: {why}" for why in self._roster.refusals), *left_out]

    @property
    def types(self) -> list[str]:
        """Names of cell types that these labs know, sorted."""
        return sorted({name for about in self.labs.values() for name in about.types})

    def gather(self) -> None:
        """Wait for labs at the start of a run, as :meth:`Roster.gather`."""
        self._roster.gather()
        self._of_phase = dict(self._roster.labs)

    def filter_cells(self, cell_filter: CellFilter) -> None:
        """Let labs work with some of their cells from now on, as :meth:`Roster.describe_anew`."""
        self.cell_filter = cell_filter
        self._roster.describe_anew(pack_filter(cell_filter))
        self._of_phase = dict(self._roster.labs)

    def begin(self) -> None:
        """Begin a phase: labs join, and those that were left out of the one before are back."""
        if back := list(self._left_out):
            log(INFO, "no longer left out: %s", ", ".join(back), extra={"back": back})
            self._left_out.clear()
        self._roster.welcome()
        self._of_phase = dict(self._roster.labs)

    def phase(self, work: Callable[[], Result]) -> Result:
        """Do what needs every lab; without those that fail, from its start.

        Raises
        ------
        RunError
            If fewer than half of the labs of the phase's start are left.
        """
        self.begin()
        needed = half(len(self.labs))
        while True:
            try:
                return work()
            except LabsLost as lost:
                self._left_out |= lost.failures
                if len(self.labs) < needed:
                    left = f"{len(self.labs)}, {needed} needed"
                    raise RunError(f"too few labs are left ({left}): {lost}") from lost
                log(WARNING, "going on without %s", lost, extra={"without": lost.failures})

    def needed(self, asked: int) -> int:
        """Give the valid updates a round needs of so many labs asked: ``min-updates`` or half."""
        return min(self.options.min_updates or half(asked), asked)

    def await_labs(self) -> None:
        """Begin a round, which is a phase; wait until as many labs as it needs are connected.

        Raises
        ------
        RunError
            If too few are after ``round-timeout`` seconds.
        """
        deadline = self._clock.monotonic() + self.options.round_timeout
        while True:
            self.begin()
            there, known = self.connected, self.labs
            needed = self.needed(len(known))
            if len(there) >= needed:
                return
            away = ", ".join(lab for lab in known if lab not in there)
            if self._clock.monotonic() > deadline:
                raise RunError(
                    f"{len(there)} of {len(known)} labs are connected, {needed} needed; not "
                    f"connected: {away}"
                )
            log(WARNING, "waiting for %s: not connected", away)
            self._clock.sleep(5.0)

    def stragglers(self, served: Collection[str]) -> Iterator[list[str]]:
        """Wait for real labs that are busy still, for up to ``round-timeout`` seconds.

        Parameters
        ----------
        served
            Labs that have what they are to have.

        Yields
        ------
        list of str
            Labs that are free now, each once.
        """
        deadline = self._clock.monotonic() + self.options.round_timeout
        told = set(served)
        while True:
            self.begin()
            labs = self.labs
            late = [lab for lab in self.connected if lab not in told and not labs[lab].simulated]
            free = [lab for lab in late if self._roster.free(lab)]
            if free:
                told.update(free)
                yield free
            elif not late or self._clock.monotonic() > deadline:
                return
            else:
                log(WARNING, "waiting for %s: still busy", ", ".join(late), extra={"labs": late})
                self._clock.sleep(5.0)

    def ask(
        self,
        subject: str,
        records: RecordDict,
        nothing: Data | Callable[[Question], Sums],
        purpose: str = "",
        largest: float = LARGEST,
    ) -> Ask:
        """Give an ``Ask`` over all labs about one subject (see ``fedsc.federated.query``).

        Parameters
        ----------
        subject
            A constant of :mod:`protocol.ask`.
        records
            What the labs need besides the question.
        nothing
            Data of a lab without cells, or what gives its answers: these show what an answer looks
            like.
        purpose
            Under which questions are counted; ``""`` = the subject.
        largest
            No value of a prepared cell or an embedding is above it.

        Returns
        -------
        callable
            Raises :class:`LabsLost` when a lab does not answer as it should, or answers what no
            cells can add up to.
        """
        before: dict[tuple[str, str], tuple[Sums, Asked]] = {}

        def ask(question: Question) -> Sums:
            content = pack_question(question, subject)
            content.update(records)
            expected = nothing(question) if callable(nothing) else answer(nothing, question)
            self.questions[purpose or subject] += 1
            answers = self.tell(self.labs, ASK, content)
            sums, failures = {}, dict(answers.failures)
            for lab, reply in answers.records.items():
                asked = Asked(question, self.labs[lab].cells, largest)
                place = lab, question.name
                try:
                    sums[lab] = read_sums(reply.get(key("sums", lab)), expected, asked.n_cells)
                    if wrong := implausible(sums[lab], asked, before.get(place)):
                        raise BadReply(wrong)
                except BadReply as bad:
                    failures[lab] = f"{question.name}: {bad}"
                    continue
                before[place] = sums[lab], asked
            if failures:
                raise LabsLost(dict(sorted(failures.items())))
            return add(sums.values())

        return ask

    def tell_all(self, message_type: str, content: RecordDict) -> Answers:
        """Send the same to every lab, as :meth:`tell`.

        Raises
        ------
        LabsLost
            If a lab does not answer.
        """
        answers = self.tell(self.labs, message_type, content)
        if answers.failures:
            raise LabsLost(answers.failures)
        return answers

    def tell(self, labs: Iterable[str], message_type: str, content: RecordDict) -> Answers:
        """Send the same to some labs, and twice more to those that fail, once they are back.

        A lab that says its failure is for good is not asked again.
        """
        answers = self.tell_each(dict.fromkeys(labs, content), message_type)
        for patience in _PATIENCE:
            again = [lab for lab in answers.failures if lab not in answers.final]
            if not again:
                break
            why = "; ".join(f"lab {lab}: {answers.failures[lab]}" for lab in again)
            log(WARNING, "asking again: %s", why, extra={"labs": again})
            self._await(again, patience)
            answers = answers.updated(self.tell_each(dict.fromkeys(again, content), message_type))
        return answers

    def tell_each(
        self, contents: dict[str, RecordDict], message_type: str, group: str = ""
    ) -> Answers:
        """Send each lab its own records, in one message per node, and sort the replies by lab."""
        # A SuperNode that was started again is another node, and may have other cells by now.
        now = self._roster.labs
        changed = {
            lab: f"it has other cells ({now[lab].cells}) than when the phase began ({then.cells})"
            for lab in contents
            if not now[lab].same_cells(then := self._of_phase[lab])
        }
        nodes = {lab: now[lab].node for lab in contents if lab not in changed}
        of_nodes: dict[int, RecordDict] = {}
        labs_of: dict[int, list[str]] = {}
        for lab, node in nodes.items():
            of_nodes.setdefault(node, RecordDict()).update(contents[lab])
            labs_of.setdefault(node, []).append(lab)
        for node, labs in labs_of.items():
            of_nodes[node][ADDRESSEES] = pack_addressees(labs)
        replies = self._roster.send(of_nodes, message_type, group, self.options.round_timeout)
        answers = sort_replies(replies, nodes, self._roster.present)
        return answers.updated(Answers({}, changed, frozenset(changed)))

    def _await(self, labs: list[str], patience: float) -> None:
        """Wait for labs to be connected and free; nodes in this process are at once."""
        deadline = self._clock.monotonic() + patience
        self._roster.welcome()
        while self._post.remote and self._clock.monotonic() < deadline:
            self._clock.sleep(1.0)
            self._roster.welcome()
            if all(self._roster.free(lab) for lab in labs):
                return


def half(labs: int) -> int:
    """Give half of some labs, rounded up; at least one."""
    return max(1, (labs + 1) // 2)
