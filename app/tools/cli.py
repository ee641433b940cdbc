"""The commands of `ferry` and their options. What they do is imported only when they run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from app import __version__
from app.errors import ServingError
from app.tools.messages import without_tensorflow

_FAILED, _WRONG_USE = 1, 2


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status: 0, 1 for what was found or failed, 2 for wrong use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = ferry.main(list(arguments), prog_name="ferry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except ServingError as error:
        click.echo(f"ferry: {error.message}", err=True)
        return _FAILED
    return status if isinstance(status, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ferry")
def ferry() -> None:
    """Tools around a model server: publish, look at, check and load-test models."""


@ferry.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(flags: tuple[str, ...]) -> int:
    """Serve models: takes tensorflow_model_server's flags."""
    from app.tools.__main__ import main

    return main(["serve", *flags])


@ferry.command()
@click.argument("place", metavar="PATH|ADDRESS")
@click.option("--model", default="", help="Name for requests; of a server: the model to look at.")
@click.option("--tags", default="serve", show_default=True, help="Tags of the meta graph, comma-separated.")
@click.option("--protocol", type=click.Choice(["rest", "grpc"]), help="What the address speaks.")
@click.option("--rest", default="localhost:8501", show_default=True, help="REST address for the commands.")
@click.option("--grpc", default="localhost:8500", show_default=True, help="gRPC address for the programs.")
@click.option("--run", "run_", is_flag=True, help="Send or run the examples, and show what was answered.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for a server's answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    place: str,
    model: str,
    tags: str,
    protocol: str | None,
    rest: str,
    grpc: str,
    run_: bool,  # noqa: FBT001
    timeout: float,
    as_json: bool,
) -> int:
    """Show what a model is, with requests that it answers.

    PATH is a version directory or a base path (its highest version is taken). ADDRESS is HOST:PORT,
    grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME of any server with TensorFlow Serving's API.
    Without --run nothing is run.
    """
    with without_tensorflow():
        from app.tools.inspect import report, show, targets

    found = targets(place, tags=tags.split(","), model=model, protocol=protocol or "", timeout=timeout)
    reports = [report(target, rest=rest, grpc=grpc, run=run_) for target in found]
    if as_json:
        click.echo(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
    else:
        for told in reports:
            show(told, _console())
    failed = [s for told in reports for s in told["signatures"].values() if s.get("run", "OK") != "OK"]
    return _FAILED if failed else 0


@ferry.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def check(context: click.Context, flags: tuple[str, ...]) -> int:
    """Find what would keep a server from serving, without serving.

    Takes exactly tensorflow_model_server's flags. Prints every problem in a line, `FILE:LINE:COLUMN:
    cause` where there is a file. Exit status: 0 if there is none, 1 for configuration files and
    models, 2 for the command line itself.
    """
    if not flags or flags[0] in ("-h", "--help"):
        click.echo(context.get_help())
        return 0
    with without_tensorflow():
        from app.tools.check import check as check_flags

    found = check_flags(flags)
    for problem in [*found.wrong_flags, *found.problems]:
        click.echo(str(problem), err=True)
    for note in found.notes:
        click.echo(f"note: {note}")
    count = len(found.wrong_flags) + len(found.problems)
    click.echo(f"models: {found.models}, versions: {found.versions}, problems: {count}")
    return _WRONG_USE if found.wrong_flags else _FAILED if found.problems else 0


class _Numbers(click.ParamType):
    """Positive whole numbers, comma-separated."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        numbers = [int(part) for part in str(value).split(",") if part.strip().isdigit()]
        if not numbers or len(numbers) != len(str(value).split(",")) or min(numbers) < 1:
            self.fail(f"`{value}`: write positive numbers, such as 1,8,32.", param, ctx)
        return numbers


@ferry.command()
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
def bench(
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
) -> int:
    """Load-test servers with TensorFlow Serving's API.

    HOST is HOST[:PORT], grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME; several are compared. Each
    client waits for an answer before it asks again, on a connection of its own. Exit status 1 if any
    request failed.
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
        )
        for host in hosts
    ]
    console = _console(stderr=True)
    with console.status("") as status:
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
        _console().print(title, bench_report.table(steps), sep="\n")
        for note in bench_report.notes(steps):
            click.echo(note)
    if plot:
        bench_report.plot(
            steps, f"{requests[0].model}, {requests[0].signature}, {requests[0].protocol}", plot
        )
    return _FAILED if any(step.errors for step in steps) else 0


def _console(*, stderr: bool = False) -> Any:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
