from __future__ import annotations

from tensorflow.core.framework import graph_pb2

from app.engine.fast_session import VariableGraph
from app.engine.rewritten import Learned, Rewritten, key_of


def rewritten(fingerprint: str) -> Rewritten:
    return Rewritten(VariableGraph(None, (), (), ()), {}, {}, "", fingerprint, None)


def test_what_was_faster_is_known() -> None:
    learned, one = Learned(), rewritten("1")
    assert learned.find("a") is None
    assert not learned.is_proved(one)
    learned.prove("a", one)
    assert learned.find("a") is one
    assert learned.is_proved(rewritten("1"))
    assert not learned.is_proved(rewritten("2"))


def test_what_may_be_rewritten_is_known() -> None:
    learned = Learned()
    assert not learned.is_allowed("a")
    learned.allow("a")
    assert learned.is_allowed("a")


def test_the_graphs_of_late_are_kept() -> None:
    learned = Learned()
    for key in "abcd":
        learned.prove(key, rewritten(key))
    learned.find("a")
    learned.prove("e", rewritten("e"))
    assert [key for key in "abcde" if learned.find(key)] == ["a", "c", "d", "e"]
    assert learned.is_proved(rewritten("b"))


def test_a_key_is_of_graph_and_tensors() -> None:
    graph, other = graph_pb2.GraphDef(), graph_pb2.GraphDef()
    assert key_of(graph, ["x:0"]) == key_of(other, ["x:0"]) != key_of(graph, ["y:0"])
    other.node.add(name="x")
    assert key_of(graph, ["x:0"]) != key_of(other, ["x:0"])
