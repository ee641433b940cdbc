"""gRPC on one connection: streams become calls, calls run, answers go out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from app.admission import nothing
from app.errors import Code, ServingError
from app.placement import STALL_SECONDS, kind_of
from app.rpc.http2.connection import Connection
from app.rpc.http2.headers import (
    LARGEST_LIST,
    OK_BLOCK,
    RequestHead,
    answer_block,
    encoding_for,
    http_block,
    status_block,
)
from app.rpc.http2.messages import Message, MessageReader, prefixed, too_large, whole
from app.rpc.http2.service import Outcome, Service, run, run_timed
from app.rpc.http2.stream_calls import StreamCall
from app.rpc.http2.streams import Stream
from app.rpc.method import Call, Method, StreamMethod, retry_metadata, wire_message
from app.rpc.methods import is_seen
from app.telemetry.observation import Observation

# A longer deadline than TensorFlow Serving can express in milliseconds is none.
_NO_DEADLINE_SECONDS = (2**31 - 1) / 1000
# After so long the calls that run on the loop let others have it.
_TURN_SECONDS = 2e-3
_EXPIRED = ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


class UnaryCall:
    """One request that waits, runs, or is answered."""

    __slots__ = ("call", "future", "leave", "message", "method", "reader", "seen", "stream", "timer")

    def __init__(
        self, stream: Stream, method: Method, deadline: float | None, leave: Callable[[], None]
    ) -> None:
        """Begin without a message; `leave` gives the place of the call back."""
        self.stream = stream
        self.method = method
        self.call = Call(deadline)
        self.message: Message | None = None
        self.reader: MessageReader | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.future: Future[None] | None = None
        self.seen: Observation | None = None
        self.leave = leave

    def cancel(self) -> None:
        """Nobody waits any more: no clock need run, and only what runs in a thread keeps its place."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future is None or self.future.cancelled():
            self.leave()


class GrpcCalls:
    """The calls of one connection. All of it happens on the loop, but for handlers in threads.

    Attributes:
        held_bytes: requests that are complete and wait for their turn.
        peer: the client's address.
    """

    def __init__(self, connection: Connection, service: Service, flush: Callable[[], None]) -> None:
        """Answer through `connection`; `flush` sends what is in its outbox."""
        self._connection = connection
        self._service = service
        self._flush = flush
        self._limit = service.limits.max_receive
        self._later: deque[UnaryCall] = deque()  # the loop's turn is over
        self._waiting: deque[UnaryCall] = deque()  # no thread is free, or too much output waits
        self._running = 0
        self._turn_left = _TURN_SECONDS
        self._turn_cpu = time.thread_time()
        self._compresses = service.limits.compression != "identity"
        self._streaming: set[StreamCall] = set()
        self.held_bytes = 0
        self.peer = ""

    # --- told by the connection ---

    def begin(self, stream: Stream) -> None:
        """Find the method."""
        head = stream.head
        if head.http_status != 200:
            self._connection.outbox.finish(stream, http_block(head.http_status))
            return
        if head.size > LARGEST_LIST:
            text = f"received metadata size exceeds hard limit ({head.size} vs. {LARGEST_LIST})"
            self._fail(stream, ServingError(Code.RESOURCE_EXHAUSTED, text))
            return
        method = self._service.table.get(head.path)
        deadline = self._deadline(head)
        if method is None:
            self._refuse(stream, head, ServingError(Code.UNIMPLEMENTED, ""))
        elif (refusal := self._refusal(head)) is not None:
            self._refuse(stream, head, refusal)
        elif isinstance(method, StreamMethod):
            self._begin_streaming(stream, method, deadline)
        else:
            self._begin_unary(stream, method, deadline)

    def _refuse(self, stream: Stream, head: RequestHead, error: ServingError) -> None:
        if self._service.observer.active:
            self._ended(self._begin_seeing(head), error.code)
        self._fail(stream, error)

    def _refusal(self, head: RequestHead) -> ServingError | None:
        access = self._service.access
        return None if access is None else access.refusal(head.path, head.authorization, head.api_key)

    def _begin_unary(self, stream: Stream, method: Method, deadline: float | None) -> None:
        head = stream.head
        leave, admission = nothing, self._service.admission
        if method.takes_place and admission is not None:
            try:
                leave = admission.enter()
            except ServingError as error:
                self._refuse(stream, head, error)
                return
        call = stream.call = UnaryCall(stream, method, deadline, leave)
        if self._service.observer.active and is_seen(head.path):
            call.seen = self._begin_seeing(head)

    def data(self, stream: Stream, payload: bytes | memoryview) -> None:
        """Put the message together."""
        call = stream.call
        if call is None or stream.done:
            return
        try:
            if isinstance(call, StreamCall):
                call.feed(payload)
                return
            if call.reader is None:
                if call.message is None and (message := whole(payload, self._limit)) is not None:
                    call.message = message, False
                    return
                call.reader = MessageReader(self._limit)
                self._arm(call)
            for message_ in call.reader.feed(payload):
                if call.message is not None:
                    raise _not_one(stream.head.path)
                call.message = message_
        except ServingError as error:
            self._fail(stream, error)

    def end(self, stream: Stream) -> None:
        """Run the call."""
        call = stream.call
        if call is None:  # its answer is on its way
            return
        if isinstance(call, StreamCall):
            call.end()
        elif call.message is None or (call.reader is not None and call.reader.within):
            self._fail(stream, _not_one(stream.head.path))
        else:
            call.reader = None
            if call.seen is not None and call.message is not None:
                call.seen.arrived(len(call.message[0]))
            self._place(call)

    def gone(self, stream: Stream) -> None:
        """Let go of a call that nobody waits for; what has begun runs to its end."""
        call = stream.call
        stream.call = None
        if call is None:
            return
        if isinstance(call, StreamCall):
            call.cancel()
            return
        self._ended(call.seen, Code.CANCELLED)
        if call.future is not None and call.future.cancel():
            self._running -= 1
        call.cancel()
        for queue in (self._later, self._waiting):
            if call in queue:
                queue.remove(call)
                self.held_bytes -= _size(call)

    def at_once(self, head: RequestHead, message: bytes) -> bytes | ServingError | None:
        """The answer to a request that came as a whole, if it may run here and now."""
        service = self._service
        method = service.table.get(head.path)
        if not isinstance(method, Method) or method.blocks or self._turn_left <= 0 or self._compresses:
            return None
        if service.is_watched:
            return None
        if 0 <= self._limit < len(message) or self._connection.output_full:
            return None
        kind = kind_of(head.path, message)
        if not (service.placement.inline(kind) or method.quick):
            return None
        start = time.perf_counter()
        answer = run(head, method, (message, False), self._limit, Call(self._deadline(head)))
        seconds = cpu_seconds = time.perf_counter() - start
        if seconds > STALL_SECONDS:  # reading the CPU time costs a system call, and is seldom of interest
            cpu_seconds = max(0.0, time.thread_time() - self._turn_cpu - (_TURN_SECONDS - self._turn_left))
        self._turn_left -= seconds
        service.placement.ran(kind, seconds, cpu_seconds, inline=True)
        if isinstance(answer, bytes):
            return too_large(answer, service.limits.max_send) or answer
        return answer

    # --- running ---

    def _place(self, call: UnaryCall) -> None:
        """Run a call here or in a thread, or keep it until it can be."""
        assert call.message is not None
        message, compressed = call.message
        head, limits = call.stream.head, self._service.limits
        here = not (compressed or call.method.blocks or encoding_for(head, limits.compression) != "identity")
        kind = kind_of(head.path, message)
        if self._connection.output_full:
            self._hold(self._waiting, call)
        elif here and (call.method.quick or self._service.placement.inline(kind)):
            if self._turn_left <= 0:
                self._hold(self._later, call)
                return
            outcome = run_timed(head, call.method, call.message, self._limit, call.call, seen=call.seen)
            self._turn_left -= outcome.seconds
            self._service.placement.ran(kind, outcome.seconds, outcome.cpu_seconds, inline=True)
            self.answer(call.stream, outcome.answer)
        elif self._running >= self._service.thread_count:
            self._hold(self._waiting, call)
        else:
            self._running += 1
            self._arm(call)
            call.future = self._service.threads.submit(self._in_thread, call, call.message)

    def _hold(self, queue: deque[UnaryCall], call: UnaryCall) -> None:
        queue.append(call)
        self.held_bytes += _size(call)
        self._arm(call)

    def new_turn(self) -> None:
        """The loop has served others since."""
        self._turn_left = _TURN_SECONDS
        self._turn_cpu = time.thread_time()

    @property
    def pending(self) -> bool:
        """Whether `resume` has something to do."""
        room = self._running < self._service.thread_count and not self._connection.output_full
        if self._later or (self._waiting and room):
            return True
        return any(map(StreamCall.ready, self._streaming))

    def resume(self) -> None:
        """Begin calls that were kept back, as far as there is room."""
        self.new_turn()
        for queue in (self._later, self._waiting):
            for _ in range(len(queue)):
                if self._connection.output_full or (queue is self._waiting and not self.pending):
                    break
                call = queue.popleft()
                self.held_bytes -= _size(call)
                self._place(call)
        for streaming in list(filter(StreamCall.ready, self._streaming)):
            streaming.resume()

    def _in_thread(self, call: UnaryCall, message: Message) -> None:
        head = call.stream.head
        outcome = run_timed(head, call.method, message, self._limit, call.call, seen=call.seen)
        self._service.loop.call_soon_threadsafe(self._ran, call, message, outcome)

    def _ran(self, call: UnaryCall, message: Message, outcome: Outcome) -> None:
        self._running -= 1
        call.leave()
        kind = kind_of(call.stream.head.path, message[0])
        self._service.placement.ran(kind, outcome.seconds, outcome.cpu_seconds, inline=False)
        self.answer(call.stream, outcome.answer)
        self._flush()

    # --- answers ---

    def answer(self, stream: Stream, answer: bytes | ServingError) -> None:
        """Send what a call was answered with."""
        if stream.done:
            return
        if isinstance(answer, ServingError):
            self._fail(stream, answer)
            return
        error = too_large(answer, self._service.limits.max_send)
        if error is not None:
            self._fail(stream, error)
            return
        call, stream.call = stream.call, None
        if call is not None:
            call.cancel()
            if isinstance(call, UnaryCall):
                self._ended(call.seen, Code.OK, len(answer))
        encoding = encoding_for(stream.head, self._service.limits.compression)
        self._connection.outbox.reply(stream, answer_block(encoding), prefixed(answer, encoding), OK_BLOCK)

    def _fail(self, stream: Stream, error: ServingError) -> None:
        """Answer with an error, which ends the stream."""
        call, stream.call = stream.call, None
        if call is not None:
            call.cancel()
            if isinstance(call, UnaryCall):
                self._ended(call.seen, error.code)
        alone, more = not stream.begun, retry_metadata(error)
        block = status_block(error.code, wire_message(error), alone=alone, more=more)
        self._connection.outbox.finish(stream, block)

    # --- observers ---

    def _begin_seeing(self, head: RequestHead) -> Observation:
        return self._service.observer.begin(
            "GRPC",
            "POST",
            head.path,
            peer=self.peer,
            traceparent=head.traceparent,
            tracestate=head.tracestate,
        )

    def _ended(self, seen: Observation | None, code: Code, size: int = 0) -> None:
        if seen is not None:
            seen.answered(code)
            self._service.observer.end(seen, size)

    # --- deadlines ---

    def _deadline(self, head: RequestHead) -> float | None:
        if head.timeout is None or head.timeout >= _NO_DEADLINE_SECONDS:
            return None
        return self._connection.heard + head.timeout

    def _arm(self, call: UnaryCall) -> None:
        """Let the call end at its deadline; needless for one that is answered at once."""
        if call.call.deadline is not None and call.timer is None:
            left = max(0.0, call.call.deadline - time.monotonic())
            call.timer = self._service.loop.call_later(left, self._expire, call.stream)

    def _expire(self, stream: Stream) -> None:
        if not stream.done:
            if isinstance(stream.call, UnaryCall) and stream.call.seen is not None:
                self._ended(stream.call.seen, _EXPIRED.code)
                stream.call.seen = None
            self.gone(stream)
            self._fail(stream, _EXPIRED)
            self._flush()

    # --- streaming ---

    def _begin_streaming(self, stream: Stream, method: StreamMethod, deadline: float | None) -> None:
        call = stream.call = StreamCall(
            stream,
            method,
            Call(deadline),
            self._connection,
            limits=self._service.limits,
            flush=self._flush,
        )
        self._streaming.add(call)
        task = self._service.loop.create_task(call.run())
        call.task = task
        task.add_done_callback(lambda _: self._streaming.discard(call))
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            call.timer = self._service.loop.call_later(left, self._expire, stream)


def _size(call: UnaryCall) -> int:
    return len(call.message[0]) if call.message is not None else 0


def _not_one(path: str) -> ServingError:
    return ServingError(Code.UNIMPLEMENTED, f'"{path}" requires exactly one request message.')
