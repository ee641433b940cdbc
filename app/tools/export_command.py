"""The command line of `ferry export`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from app.tools.console import console
from app.tools.messages import quiet_tensorflow


@click.command()
@click.argument("source")
@click.argument("base_path")
@click.option("--name", required=True, help="The model's name: its directory in BASE_PATH.")
@click.option("--version", type=click.IntRange(1), help="By default the highest there and one more.")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=TENSOR", help="Of a graph without signatures."
)
@click.option("--output", "outputs", multiple=True, metavar="NAME=TENSOR", help="Likewise; one is needed.")
@click.option(
    "--signature", default="", metavar="A,B", help="Of a SavedModel: those to keep. Of a graph: its name."
)
@click.option("--tags", default="serve", show_default=True, help="Tags of the meta graph in a SavedModel.")
@click.option(
    "--warmup",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Example inputs to warm up with: .json (REST bodies), .npz or .npy. May be repeated.",
)
@click.option("--skip-run", is_flag=True, help="Load the result, but do not run it.")
@click.option("--dry-run", is_flag=True, help="Do everything but publish.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    *,
    source: str,
    base_path: str,
    name: str,
    version: int | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    signature: str,
    tags: str,
    warmup: tuple[str, ...],
    skip_run: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish a model as BASE_PATH/NAME/VERSION.

    SOURCE is a Keras model (.keras, .h5), a TF1 checkpoint with its meta graph (the directory, for the
    latest, or the prefix), a frozen graph (.pb), or a SavedModel. The result is loaded and run before it
    is renamed into place, so that a running server never sees half of it.
    """
    quiet_tensorflow()
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting TensorFlow", total=None)
        from app.tools.export import STEPS, Wish, signature_pairs
        from app.tools.export import export as publish

        wish = Wish(
            source=source,
            base_path=base_path,
            name=name,
            version=version,
            inputs=signature_pairs(inputs, "--input"),
            outputs=signature_pairs(outputs, "--output"),
            signatures=tuple(filter(None, signature.split(","))),
            tags=tuple(tags.split(",")),
            warmup=warmup,
            run=not skip_run,
            dry=dry_run,
        )

        def step(text: str) -> None:
            begun = progress.tasks[task].total is not None
            progress.update(task, description=text, total=STEPS, advance=1 if begun else 0)

        made = publish(wish, step)
    if as_json:
        click.echo(json.dumps(asdict(made), indent=2))
        return
    verb = "would publish" if dry_run else "published"
    click.echo(
        f"{verb} {made.path}: version {made.version} of {name}, from a {made.form}, in {made.seconds:.1f} s"
    )
    click.echo(f"  bytes: {made.bytes:,}, warm-up records: {made.warmup_records}")
    for signature_name, ran in made.signatures.items():
        said = (
            "loaded and run"
            if ran == "OK"
            else f"loaded, not run: {ran}"
            if ran != "not run"
            else "loaded, not run"
        )
        click.echo(f"  {signature_name}: {said}")
