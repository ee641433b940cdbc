"""The commands of `ferry` and their options. What they do is imported only when they run."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from app import __version__
from app.errors import ServingError
from app.tools.access import Access, access_options
from app.tools.bench_command import bench
from app.tools.console import FAILED, WRONG_USE, console
from app.tools.export_command import export
from app.tools.messages import quiet_tensorflow, without_tensorflow


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status: 0, 1 for what was found or failed, 2 for wrong use."""
    try:
        status = ferry.main(list(arguments), prog_name="ferry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except ServingError as error:
        click.echo(f"ferry: {error.message}", err=True)
        return FAILED
    return status if isinstance(status, int) else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ferry")
def ferry() -> None:
    """Tools around a model server: publish, look at, check and load-test models."""


@ferry.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(flags: tuple[str, ...]) -> int:
    """Serve models: takes tensorflow_model_server's flags."""
    from app.__main__ import main

    return main(flags, "ferry serve")


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
@access_options
def inspect(
    *,
    place: str,
    model: str,
    tags: str,
    protocol: str | None,
    rest: str,
    grpc: str,
    run_: bool,
    timeout: float,
    as_json: bool,
    access: Access,
) -> int:
    """Show what a model is, with requests that it answers.

    PATH is a version directory or a base path (its highest version is taken). ADDRESS is HOST:PORT,
    grpc://HOST:PORT or http://HOST:PORT/v1/models/NAME, with TLS grpcs:// or https://, of any server
    with TensorFlow Serving's API.
    Without --run nothing is run.
    """
    with without_tensorflow():
        from app.tools.inspect import report, show, targets

    if run_:
        quiet_tensorflow()
    found = targets(
        place, tags=tags.split(","), model=model, protocol=protocol or "", timeout=timeout, access=access
    )
    reports = [report(target, rest=rest, grpc=grpc, run=run_, access=access) for target in found]
    if as_json:
        click.echo(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
    else:
        for told in reports:
            show(told, console())
    failed = [s for told in reports for s in told["signatures"].values() if s.get("run", "OK") != "OK"]
    return FAILED if failed else 0


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
    return WRONG_USE if found.wrong_flags else FAILED if found.problems else 0


ferry.add_command(bench)
ferry.add_command(export)
