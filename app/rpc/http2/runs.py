"""Where and when the unary calls of a connection run: on the loop, in threads, or a little later."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from app.errors import ServingError
from app.placement import STALL_SECONDS, WATCHED, kind_of
from app.rpc.http2.connection import Connection
from app.rpc.http2.headers import RequestHead, encoding_for
from app.rpc.http2.messages import Message, too_large
from app.rpc.http2.service import Outcome, Service, run, run_timed
from app.rpc.http2.streams import Stream
from app.rpc.http2.unary_call import UnaryCall, deadline_of
from app.rpc.method import Call, Method

# After so long the calls that run on the loop let others have it.
_TURN_SECONDS = 2e-3
_WHENEVER = Call()


class Runs:
    """Runs calls as far as there is room, and keeps the others back.

    Attributes:
        held_bytes: requests that are complete and wait for their turn.
        later: those that wait for the loop's next turn.
        waiting: those that wait for a thread, or for output to be sent.
    """

    def __init__(
        self,
        connection: Connection,
        service: Service,
        *,
        answer: Callable[[Stream, bytes | ServingError], None],
        arm: Callable[[UnaryCall], None],
        flush: Callable[[], None],
    ) -> None:
        """Run nothing yet.

        Args:
            connection: of the calls; what waits to be sent on it holds calls back.
            service: threads, placement and limits.
            answer: is told how a call ended.
            arm: starts the clock of a call that is not answered at once.
            flush: sends what is in the connection's outbox.
        """
        self._connection = connection
        self._service = service
        self._answer = answer
        self._arm = arm
        self._flush = flush
        self._limit = service.limits.max_receive
        self.later: deque[UnaryCall] = deque()
        self.waiting: deque[UnaryCall] = deque()
        self._running = 0
        self._turn_left = _TURN_SECONDS
        self._outbox, self._max_output = connection.outbox, service.limits.max_output
        self._at_once = service.limits.compression == "identity" and not service.asks
        self.held_bytes = 0

    def at_once(self, head: RequestHead, message: bytes) -> bytes | ServingError | None:
        """The answer to a request that came as a whole, if it may run here and now."""
        service = self._service
        method = service.table.get(head.path)
        if not self._at_once or self._turn_left <= 0 or not isinstance(method, Method) or method.blocks:
            return None
        if service.observer.active or 0 <= self._limit < len(message):
            return None
        if self._outbox.waiting_bytes > self._max_output:
            return None
        placement = service.placement
        record = placement.find(kind_of(head.path, message))
        if (record is None or not record.inline) and not method.quick:
            return None
        call = _WHENEVER if head.timeout is None else Call(deadline_of(head, self._connection.heard))
        watched = placement.watched > 0
        cpu_start = time.thread_time() if watched else 0.0
        start = time.perf_counter()
        answer = run(head, method, (message, False), self._limit, call)
        seconds = time.perf_counter() - start
        self._turn_left -= seconds
        cpu_seconds = seconds
        if watched:
            placement.watched -= 1
            cpu_seconds = time.thread_time() - cpu_start
        if seconds > STALL_SECONDS:
            cpu_seconds = cpu_seconds if watched else STALL_SECONDS
            placement.watched = WATCHED
        if record is not None:
            record.ran_inline(seconds, cpu_seconds)
        largest = service.limits.max_send
        if largest >= 0 and isinstance(answer, bytes):
            return too_large(answer, largest) or answer
        return answer

    def place(self, call: UnaryCall) -> None:
        """Run a call here or in a thread, or keep it until it can be."""
        assert call.message is not None
        message, compressed = call.message
        head, limits = call.stream.head, self._service.limits
        here = not (compressed or call.method.blocks or encoding_for(head, limits.compression) != "identity")
        kind = kind_of(head.path, message)
        if self._connection.output_full:
            self._hold(self.waiting, call)
        elif here and (call.method.quick or self._service.placement.inline(kind)):
            if self._turn_left <= 0:
                self._hold(self.later, call)
                return
            outcome = run_timed(head, call.method, call.message, self._limit, call.call, seen=call.seen)
            self._turn_left -= outcome.seconds
            self._service.placement.ran(kind, outcome.seconds, outcome.cpu_seconds, inline=True)
            self._answer(call.stream, outcome.answer)
        elif self._running >= self._service.thread_count:
            self._hold(self.waiting, call)
        else:
            self._running += 1
            self._arm(call)
            call.future = self._service.threads.submit(self._in_thread, call, call.message)

    def _hold(self, queue: deque[UnaryCall], call: UnaryCall) -> None:
        queue.append(call)
        self.held_bytes += call.size
        self._arm(call)

    def new_turn(self) -> None:
        """The loop has served others since."""
        self._turn_left = _TURN_SECONDS

    @property
    def pending(self) -> bool:
        """Whether `resume` has something to do."""
        room = self._running < self._service.thread_count and not self._connection.output_full
        return bool(self.later or (self.waiting and room))

    def resume(self) -> None:
        """Begin calls that were kept back, as far as there is room."""
        self.new_turn()
        for queue in (self.later, self.waiting):
            for _ in range(len(queue)):
                if self._connection.output_full or (queue is self.waiting and not self.pending):
                    break
                call = queue.popleft()
                self.held_bytes -= call.size
                self.place(call)

    def forget(self, call: UnaryCall) -> None:
        """Nobody waits for a call any more; what has begun runs to its end."""
        if call.future is not None and call.future.cancel():
            self._running -= 1
        call.cancel()
        for queue in (self.later, self.waiting):
            if call in queue:
                queue.remove(call)
                self.held_bytes -= call.size

    def _in_thread(self, call: UnaryCall, message: Message) -> None:
        head = call.stream.head
        outcome = run_timed(head, call.method, message, self._limit, call.call, seen=call.seen)
        self._service.loop.call_soon_threadsafe(self._ran, call, message, outcome)

    def _ran(self, call: UnaryCall, message: Message, outcome: Outcome) -> None:
        self._running -= 1
        call.leave()
        kind = kind_of(call.stream.head.path, message[0])
        self._service.placement.ran(kind, outcome.seconds, outcome.cpu_seconds, inline=False)
        self._answer(call.stream, outcome.answer)
        self._flush()
