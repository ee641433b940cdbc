"""The command line of `ferry bench`."""

from __future__ import annotations

import json
from typing import Any

import click

from app.tools.access import Access, access_options
from app.tools.console import FAILED, console
from app.tools.messages import without_tensorflow


class _Numbers(click.ParamType[list[int]]):
    """Positive whole numbers, comma-separated."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        numbers = [int(part) for part in str(value).split(",") if part.strip().isdigit()]
        if not numbers or len(numbers) != len(str(value).split(",")) or min(numbers) < 1:
            self.fail(f"`{value}`: write positive numbers, such as 1,8,32.", param, ctx)
        return numbers


@click.command()
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--protocol", type=click.Choice(["rest", "grpc"]), default="rest", show_default=True)
@click.option("--model", default="", help="May be left out if the server lists a single one.")
@click.option("--signature", default="", help="By default serving_default.")
@click.option(
    "--concurrency", type=_Numbers(), default="1,8,32", show_default=True, help="Numbers of clients."
)
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Of each step.")
@click.option("--warm-seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Before each.")
@click.option("--input", "input_file", default="", help="Request: .json (a REST body), .npz or .npy.")
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows of a made-up request."
)
@click.option(
    "--timeout", type=click.FloatRange(0.001), default=30.0, show_default=True, help="Of a request."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", default="", help="Draw to this .png, .svg or .pdf file (needs matplotlib).")
@access_options
def bench(
    *,
    hosts: tuple[str, ...],
    protocol: str,
    model: str,
    signature: str,
    concurrency: list[int],
    seconds: float,
    warm_seconds: float,
    input_file: str,
    batch: int,
    timeout: float,
    as_json: bool,
    plot: str,
    access: Access,
) -> int:
    """Load-test servers with TensorFlow Serving's API.

    HOST is HOST[:PORT], grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME, with TLS grpcs:// or
    https://; several are compared. Each client waits for an answer before it asks again, on a
    connection of its own. Exit status 1 if any request failed.
    """
    with without_tensorflow():
        from app.tools import bench_report
        from app.tools.bench import measure, prepare

    if plot:
        bench_report.check_plot(plot)
    requests = [
        prepare(
            host,
            protocol=protocol,
            model=model,
            signature=signature,
            input_file=input_file,
            batch=batch,
            timeout=timeout,
            access=access,
        )
        for host in hosts
    ]
    progress = console(stderr=True)
    with progress.status("") as status:
        steps = list(
            measure(
                requests,
                concurrency,
                seconds=seconds,
                warm_seconds=warm_seconds,
                timeout=timeout,
                begun=status.update,
            )
        )
    if as_json:
        click.echo(json.dumps(bench_report.as_json(requests, steps, seconds), indent=2))
    else:
        first = requests[0]
        title = (
            f"{first.model}, {first.signature}, {first.protocol}, requests of {len(first.payload):,} bytes"
        )
        console().print(title, bench_report.table(steps), sep="\n")
        for note in bench_report.notes(steps):
            click.echo(note)
    if plot:
        bench_report.plot(
            steps, f"{requests[0].model}, {requests[0].signature}, {requests[0].protocol}", plot
        )
    return FAILED if any(step.errors for step in steps) else 0
