"""A gRPC client as a process: so many connections, so many calls at a time on each, every answer checked.

Reads from standard input one line of JSON (see `Load`), says `ready`, and then, for every line that says
how many requests to send, sends them and says `done`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import grpc.aio

METHOD = "/tensorflow.serving.PredictionService/Predict"


async def main() -> None:
    """Serve the lines of standard input."""
    load = json.loads(sys.stdin.readline())
    request = Path(load["request"]).read_bytes()
    expected = bytes.fromhex(load["expected"])
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{load['port']}", options) for _ in range(load["connections"])
    ]
    calls = [channel.unary_unary(METHOD) for channel in channels for _ in range(load["streams"])]

    async def send(call: grpc.aio.UnaryUnaryMultiCallable, count: int) -> None:
        for _ in range(count):
            answer = await call(request, timeout=60)
            if expected not in answer:
                raise AssertionError(answer)

    async def send_all(count: int) -> None:
        await asyncio.gather(*(send(call, count // len(calls)) for call in calls))

    await send_all(20 * len(calls))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await send_all(int(line))
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
