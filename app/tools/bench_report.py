"""The figures of a load test as a table, as JSON and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from app.errors import invalid_argument
from app.tools.bench import Request, Step


def table(steps: Sequence[Step]) -> Any:
    """A rich table, a row for each step."""
    from rich.table import Table

    hosts = len({step.host for step in steps}) > 1
    columns = [*(["server"] if hosts else []), "clients", "answers/s", "p50 ms", "p90 ms", "p99 ms", "max ms"]
    made = Table(*columns, "errors", box=None, header_style="bold")
    for column in made.columns[hosts:-1]:
        column.justify = "right"
    for step in steps:
        figures = [step.p50, step.p90, step.p99, step.highest]
        errors = ", ".join(f"{count} x {code}" for code, count in sorted(step.errors.items()))
        made.add_row(
            *([step.host] if hosts else []),
            str(step.concurrency),
            f"{step.rate:,.1f}{'*' if step.client_bound else ''}",
            *("-" if math.isnan(figure) else f"{figure:,.2f}" for figure in figures),
            f"[red]{errors}[/red]" if errors else "none",
        )
    return made


def notes(steps: Sequence[Step]) -> list[str]:
    """What has to be said with the table."""
    said = [
        f"{step.host}, {step.concurrency} clients: {step.first_error}" for step in steps if step.first_error
    ]
    if any(step.client_bound for step in steps):
        said.append("* The clients had no CPU time left: the server may do more than that.")
    return said


def as_json(requests: Sequence[Request], steps: Sequence[Step], seconds: float) -> dict[str, Any]:
    """Everything, as JSON has it; latencies in milliseconds, null without answers."""
    servers = [
        {
            "host": request.host,
            "protocol": request.protocol,
            "model": request.model,
            "version": request.version,
            "signature": request.signature,
            "request_bytes": len(request.payload),
        }
        for request in requests
    ]
    rows = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(step).items()
        }
        for step in steps
    ]
    return {"servers": servers, "seconds": seconds, "steps": rows}


def check_plot(path: str) -> None:
    """Refuse, before an hour of load, a plot that could not be drawn: INVALID_ARGUMENT."""
    if not path.endswith((".png", ".svg", ".pdf")):
        raise invalid_argument(f"--plot {path}: the name has to end in .png, .svg or .pdf.")
    if find_spec("matplotlib") is None:
        raise invalid_argument(
            "--plot needs matplotlib, which is not installed: pip install 'ferry-model-server[plot]'"
        )


def plot(steps: Sequence[Step], title: str, path: str) -> None:
    """Draw rate and latency over the number of clients to the file at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    rates, latencies = figure.subplots(1, 2)
    for host in dict.fromkeys(step.host for step in steps):
        own = [step for step in steps if step.host == host]
        clients = [step.concurrency for step in own]
        (line,) = rates.plot(clients, [step.rate for step in own], marker="o", label=host)
        for name, style in (("p50", "-"), ("p99", "--")):
            values = [getattr(step, name) for step in own]
            latencies.plot(
                clients, values, style, marker="o", color=line.get_color(), label=f"{host}, {name}"
            )
    rates.set_ylabel("answers per second")
    rates.set_ylim(bottom=0)
    latencies.set_ylabel("latency, ms")
    latencies.set_yscale("log")
    for axes in (rates, latencies):
        axes.set_xlabel("clients")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({step.concurrency for step in steps}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", frameon=False)
    figure.suptitle(title)
    figure.savefig(path)
