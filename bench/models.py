"""What making models fast at load gains and costs: the plain session beside the engine, in one run.

For each model and batch size: the times of both in turn, their ratio, and whether the top-1 choices are
the same; here the work at load has all the time that it wants. Then, each in a process of its own, the
time to load, the peak of resident memory, and what the load decided in the time that it has in earnest.

`bench/models.py [xla] [MODEL ...]`; with `xla` the engine tries that too.
"""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

SAMPLES = REPOSITORY / "models-sample"
MODELS = {
    "image_classifier": "array",
    "resnet50": "serving_default",
    "bert_small": "serving_default",
    "text_classifier": "serving_default",
    "half_plus_two": "serving_default",
}
BATCHES = (1, 8, 32)
ROUNDS = 9
SECONDS = 0.15
LOADS = 5
XLA = "xla"
COMPILING_RUNS = 3
WITHOUT_HURRY = 100


class Decisions(logging.Handler):
    """Remembers what the last load decided."""

    last = ""
    made_fast = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line of the log."""
        message = record.getMessage()
        if message.startswith("Model "):
            self.last = message
            self.made_fast = message.startswith("Model made fast")
        elif message.startswith("XLA is used"):
            self.last, self.made_fast = message, True


decisions = Decisions()


def main() -> None:
    """Compare the models that are named, or all."""
    logger = logging.getLogger("app.engine")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(decisions)
    arguments = [word for word in sys.argv[1:] if word != XLA]
    if XLA in sys.argv:
        os.environ["TF_XLA_FLAGS"] = "--tf_xla_cpu_global_jit"
    if arguments[:1] == ["load"]:
        load_once(arguments[1], fast=arguments[2] == "fast")
        return
    for name in arguments or MODELS:
        print(name)
        speed(name)
        loads(name)


def load(name: str, *, fast: bool, load_factor: float = 2.0) -> Any:
    """A sample model, plain or made fast."""
    from app.engine import savedmodel
    from app.engine.optimise import Optimisation
    from app.engine.session_config import session_config
    from app.options import Options

    (version,) = (SAMPLES / name).iterdir()
    optimisation = Optimisation(xla=XLA in sys.argv, load_factor=load_factor) if fast else None
    return savedmodel.load(str(version), ["serve"], session_config(Options()), optimisation=optimisation)


def speed(name: str) -> None:
    """Time both in turn."""
    plain, fast = load(name, fast=False), load(name, fast=True, load_factor=WITHOUT_HURRY)
    if not decisions.made_fast:
        print(f"  kept as it is: {decisions.last}", flush=True)
        plain.close()
        fast.close()
        return
    signature = plain.signatures[MODELS[name]]
    for batch in BATCHES:
        inputs = {alias: example(alias, spec, batch) for alias, spec in signature.inputs.items()}
        for _ in range(COMPILING_RUNS):
            expected, found = plain.run(signature, inputs), fast.run(signature, inputs)
        same = all(
            np.array_equal(value.argmax(-1), found[alias].argmax(-1))
            for alias, value in expected.items()
            if value.dtype != object and value.ndim
        )
        started = time.perf_counter()
        plain.run(signature, inputs)
        calls = max(1, int(SECONDS / (time.perf_counter() - started)))
        times: dict[Any, list[float]] = {plain: [], fast: []}
        for round_ in range(ROUNDS):
            for model in (plain, fast) if round_ % 2 else (fast, plain):
                started = time.perf_counter()
                for _ in range(calls):
                    model.run(signature, inputs)
                times[model].append((time.perf_counter() - started) / calls)
        ratios = [slow / quick for slow, quick in zip(times[plain], times[fast], strict=True)]
        print(
            f"  batch {batch:2}: plain {statistics.median(times[plain]) * 1e3:9.3f} ms, engine "
            f"{statistics.median(times[fast]) * 1e3:9.3f} ms, {statistics.median(ratios):.2f} times as fast, "
            f"top-1 {'identical' if same else 'DIFFERENT'}",
            flush=True,
        )
    plain.close()
    fast.close()


def example(alias: str, spec: Any, batch: int) -> Any:
    """Random pictures (coarse, as photographs are), words, texts or numbers."""
    random = np.random.default_rng(7)
    shape = [batch if size < 0 else size for size in spec.shape]
    if spec.dtype.name == "string":
        return np.array([b"a good film, and a bad one"] * batch, object)
    if spec.dtype.name == "int32":
        return random.integers(0, 2 if "mask" in alias else 30000, shape).astype(np.int32)
    if len(shape) == 4:
        coarse = random.random([batch, 14, 14, 3]).astype(np.float32)
        return coarse.repeat(shape[1] // 14, 1).repeat(shape[2] // 14, 2)
    return random.random(shape).astype(np.float32)


def loads(name: str) -> None:
    """Load in processes of their own, in turn."""
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    peaks: dict[str, list[float]] = {"plain": [], "fast": []}
    rests: dict[str, list[float]] = {"plain": [], "fast": []}
    made_fast = 0
    for _ in range(LOADS):
        for way in ("plain", "fast"):
            command = [sys.executable, __file__, *({XLA} & set(sys.argv)), "load", name, way]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            took, peak, rest, made = map(float, output.split()[-4:])
            made_fast += made > 0
            seconds[way].append(took)
            peaks[way].append(peak)
            rests[way].append(rest)
    plain, fast = (statistics.median(seconds[way]) for way in ("plain", "fast"))
    before, after = (statistics.median(peaks[way]) for way in ("plain", "fast"))
    left_before, left_after = (statistics.median(rests[way]) for way in ("plain", "fast"))
    (version,) = (SAMPLES / name).iterdir()
    size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file()) / 1e6
    print(
        f"  load with first runs: plain {plain:.2f} s, engine {fast:.2f} s ({fast / plain:.2f} x); "
        f"peak memory above the bare process {before:.0f} MB and {after:.0f} MB, "
        f"{left_before:.0f} MB and {left_after:.0f} MB stay, model {size:.0f} MB; "
        f"made fast in {made_fast} of {LOADS} loads",
        flush=True,
    )


def load_once(name: str, *, fast: bool) -> None:
    """Load and warm up as the server does; print the seconds and the megabytes above the bare process."""
    from app.engine.warmup import warm_up_from_signatures

    load("half_plus_two", fast=False).close()  # what the process needs once
    before = memory("VmRSS")
    started = time.perf_counter()
    model = load(name, fast=fast)
    warm_up_from_signatures(model)
    took = time.perf_counter() - started
    print(took, memory("VmHWM") - before, memory("VmRSS") - before, int(decisions.made_fast))
    model.close()


def memory(field: str) -> float:
    """Megabytes of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
