"""Rewritten graphs, and what loads learn of them for later ones."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.engine.fast_session import VariableGraph

# Graphs that are kept: some megabytes each, which the sessions of the newest versions need anyway.
_KEPT = 4


@dataclass(frozen=True)
class Rewritten:
    """What takes an original graph's place.

    Attributes:
        graph: to be run by sessions.
        computed: the variables that are made from others: the tensor of `source` with the value, by name.
        source: the nodes from which values are computed.
        report: what was done.
        fingerprint: of its graph.
        representative: the name of a signature that needs every variable; None if there is none.
    """

    graph: VariableGraph
    computed: Mapping[str, str]
    source: Mapping[str, Any]
    report: str
    fingerprint: str
    representative: str | None


class Learned:
    """What loads have learned of graphs that were made faster. Safe for any number of threads.

    The next versions of such a model only have to give the same answers, whatever time that takes: on a busy
    machine they would be slower than the first. If even the names in its graph are the same, it is not
    rewritten once more, which would hold Python's lock while requests want it.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._lock = threading.Lock()
        self._allowed: set[str] = set()
        self._proved: set[str] = set()
        self._kept: OrderedDict[str, Rewritten] = OrderedDict()

    def is_allowed(self, key: str) -> bool:
        """Whether nothing spoke against rewriting the graph with that `key_of`."""
        return key in self._allowed

    def allow(self, key: str) -> None:
        """Nothing spoke against it."""
        self._allowed.add(key)

    def find(self, key: str) -> Rewritten | None:
        """What was made of the graph with that `key_of`, if it was made faster lately."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def is_proved(self, rewritten: Rewritten) -> bool:
        """Whether a graph that differs in names and weights only was faster."""
        return rewritten.fingerprint in self._proved

    def prove(self, key: str, rewritten: Rewritten) -> None:
        """It was faster than the graph with that `key_of`."""
        with self._lock:
            self._proved.add(rewritten.fingerprint)
            self._kept[key] = rewritten
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


def key_of(graph_def: Any, tensors: Sequence[str]) -> str:
    """The same for equal GraphDefs with the same tensors that are fed and fetched."""
    found = hashlib.sha256(graph_def.SerializeToString(deterministic=True))
    found.update(repr(tuple(tensors)).encode())
    return found.hexdigest()
