"""gRPC on one connection: streams become calls, calls run, answers go out."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.admission import nothing
from app.errors import Code, ServingError
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
from app.rpc.http2.messages import MessageReader, prefixed, too_large, whole
from app.rpc.http2.runs import Runs
from app.rpc.http2.service import Service
from app.rpc.http2.stream_calls import StreamCall
from app.rpc.http2.streams import Stream
from app.rpc.http2.unary_call import UnaryCall, deadline_of
from app.rpc.method import Call, Method, StreamMethod, retry_metadata, wire_message
from app.rpc.methods import is_seen
from app.telemetry.observation import Observation

_EXPIRED = ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


class GrpcCalls:
    """The calls of one connection. All of it happens on the loop, but for handlers in threads.

    Attributes:
        at_once: answers a request that came as a whole, if it may run here and now.
        new_turn: to be called when the loop has served others.
        peer: the client's address.
    """

    def __init__(self, connection: Connection, service: Service, flush: Callable[[], None]) -> None:
        """Answer through `connection`; `flush` sends what is in its outbox."""
        self._connection = connection
        self._service = service
        self._flush = flush
        self._limit = service.limits.max_receive
        self._runs = Runs(connection, service, answer=self.answer, arm=self._arm, flush=flush)
        self.at_once = self._runs.at_once  # the way of most calls: a step less
        self.new_turn = self._runs.new_turn
        self._streaming: set[StreamCall] = set()
        self.peer = ""

    @property
    def held_bytes(self) -> int:
        """Requests that are complete and wait for their turn."""
        return self._runs.held_bytes

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
        deadline = deadline_of(head, self._connection.heard)
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
            self._runs.place(call)

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
        self._runs.forget(call)

    # --- turns ---

    @property
    def pending(self) -> bool:
        """Whether `resume` has something to do."""
        runs = self._runs
        if (runs.later or runs.waiting) and runs.pending:
            return True
        return bool(self._streaming) and any(map(StreamCall.ready, self._streaming))

    def resume(self) -> None:
        """Begin calls that were kept back, as far as there is room."""
        self._runs.resume()
        for streaming in list(filter(StreamCall.ready, self._streaming)):
            streaming.resume()

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


def _not_one(path: str) -> ServingError:
    return ServingError(Code.UNIMPLEMENTED, f'"{path}" requires exactly one request message.')
