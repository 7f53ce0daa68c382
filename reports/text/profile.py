"""Measurements as tables; reads records only."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from segmeter.harness.records import PARTS
from segmeter.reports.units import amount, percent, title

Record = Mapping[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """A measured number to some significant digits; ``-`` where it was not measured.

    >>> number(1234.56), number(0.01234), number(None)
    ('1235', '0.0123', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def ratio_lines(runs: Sequence[Record]) -> list[str]:
    """The headline: how many times faster, with interval and verdict."""
    lines = []
    for run in runs:
        for r in run["ratios"]:
            one, other = run["title"], r["baseline_title"]
            runtime = run["settings"].get("runtime")
            if r.get("baseline_runtime") not in (None, runtime):
                one, other = f"{one} in {runtime}", f"{other} in {r['baseline_runtime']}"
            says = f"{r['times_faster']:.3f}x, 95 % interval {r['low']:.3f} to {r['high']:.3f}"
            lines.append(f"{one} against {other}: {r['verdict']} ({says}, {r['rounds']} rounds)")
    return lines


def conditions(settings: Mapping[str, Any]) -> str:
    """What was held equal, in one line."""
    return ", ".join(condition_words(settings))


def condition_words(settings: Mapping[str, Any]) -> list[str]:
    """What was held equal, one condition each."""
    words = [
        f"{settings['padded_size']}",
        f"batch {settings['batch']}",
        f"{settings['dtype']}" + (f" with {settings['tf32']} in TF32" if settings.get("tf32") else ""),
        f"{settings['device']}",
    ]
    if settings.get("threads"):
        words.append("1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads")
    ways = {"compile": "compiled", "cuda_graph": "CUDA graph", "keep_memory": "freed memory kept"}
    words += [name for key, name in ways.items() if settings.get(key)]
    if settings.get("runtime") not in (None, "eager", "compile"):
        words.append(str(settings["runtime"]))
    if settings.get("inputs") == "photos":
        words.append("photos")
    return words


def latency_table(runs: Sequence[Record]) -> Table:
    """Latency, FPS, memory and energy of each model."""
    settings = runs[0]["settings"]
    runtimes = [run["settings"].get("runtime") for run in runs]
    several = len(set(runtimes)) > 1
    if several:
        settings = {**settings, "runtime": None, "compile": False}
    table = Table(title=f"Measured at {conditions(settings)}", title_justify="left")
    table.add_column("model")
    if several:
        table.add_column("runtime")
    names = ("median ms", "95 % interval", "IQR", "p90", "p99", "images/s")
    memory = ("peak memory", "parameters")
    for name in (*names, *memory, "J/image", "W", "TFLOP/s", "of peak", "rounds"):
        table.add_column(name, justify="right")
    for run, runtime in zip(runs, runtimes, strict=True):
        latency, figures = run["statistics"]["latency_ms"], run["figures"]
        share = figures.get("peak_share")
        table.add_row(
            run["title"],
            *([str(runtime)] if several else []),
            number(latency["median"], 4),
            f"{number(latency['low'], 4)} to {number(latency['high'], 4)}",
            f"{number(latency['q25'], 4)} to {number(latency['q75'], 4)}",
            number(latency["p90"], 4),
            number(latency["p99"], 4),
            number(figures["fps"]),
            peak_text(figures),
            size(figures.get("parameter_bytes")),
            number(figures.get("joules_per_image")),
            number(figures.get("watts")),
            number(figures.get("tflops_per_s")),
            "-" if share is None else percent(100 * share),
            str(latency["samples"]),
        )
    return table


def component_tables(run: Record) -> tuple[Table, Table]:
    """Where one model's time goes, and what its components do in it."""
    times = Table(title=f"Where the time of {run['title']} goes", title_justify="left")
    work = Table(title=f"Work and memory of the components of {run['title']}", title_justify="left")
    times.add_column("component")
    for name in ("ms", "95 % interval", "IQR", "p90", "p99", "share", "images/s"):
        times.add_column(name, justify="right")
    work.add_column("component")
    for name in ("GFLOPs", "TFLOP/s", "of peak", "FLOPs/byte", "bound by"):
        work.add_column(name, justify="right")
    for name in ("parameters", "activations", "peak memory"):
        work.add_column(name, justify="right")
    for name in sorted(run["components"], key=_place):
        c = run["components"][name]
        head, _, rest = name.partition(".")
        label = f"{title(head)}: {title(rest)}" if rest else title(name)
        times.add_row(
            label,
            number(c["ms"]),
            spread(c.get("ms_low"), c.get("ms_high")),
            spread(c.get("ms_q25"), c.get("ms_q75")),
            number(c.get("ms_p90")),
            number(c.get("ms_p99")),
            percent(100 * c["share"]),
            number(c.get("images_per_s")),
        )
        share, bound = c.get("peak_share"), c.get("compute_bound")
        work.add_row(
            label,
            number(c.get("gflops")),
            number(c.get("tflops_per_s")),
            "-" if share is None else percent(100 * share),
            number(c.get("flops_per_byte")),
            "-" if bound is None else ("compute" if bound else "memory"),
            size(c.get("parameter_bytes")),
            size(c.get("activation_bytes")),
            peak_text(c),
        )
    return times, work


def spread(low: float | None, high: float | None) -> str:
    """Two ends, or ``-`` in records from before they were kept.

    >>> spread(1.0, 2.5), spread(None, None)
    ('1 to 2.5', '-')
    """
    return "-" if low is None or high is None else f"{number(low)} to {number(high)}"


def size(bytes_: float | None) -> str:
    """Bytes, or ``-`` where they were not measured.

    >>> size(1.5e6), size(None)
    ('1.50 MB', '-')
    """
    return "-" if bytes_ is None else amount(round(bytes_), "bytes")


def peak_text(figures: Mapping[str, Any]) -> str:
    """Peak memory over the start: the resident set's, or what CUDA's allocator gave out and reserved."""
    allocated = figures.get("peak_allocated_over_start_bytes")
    if allocated is None:
        return size(figures.get("peak_rss_over_start_bytes"))
    return f"{size(allocated)}, {size(figures.get('peak_reserved_over_start_bytes'))} reserved"


def _place(component: str) -> tuple[int, str]:
    head = component.partition(".")[0]
    return (PARTS.index(head) if head in PARTS else len(PARTS), component)


def notes(run: Record) -> list[str]:
    """How one model was measured and on what."""
    env, figures = run["environment"], run["figures"]
    op, git = env["op_implementation"], env["git"]
    dirty = " with changes" if git["dirty"] else ""
    revision = f"git {git['revision'][:12]}{dirty}" if git["revision"] else "no git revision"
    return [
        f"method      {run['settings']['method']}",
        *(f"{key:<11} {text}" for key, text in run["notes"].items()),
        f"machine     {env['device_name']}, load {load_text(env)}, torch {env['versions']['torch']}, "
        f"op {op['name']} ({op['reason']}), {revision}",
        f"peaks       {number(figures['peak_tflops'])} TFLOP/s in a matrix product or convolution, "
        f"{number(figures['peak_gbytes_per_s'])} GB/s in a copy, both measured now",
        f"meanwhile   {'; '.join(meanwhile(env))}",
    ]


def load_text(env: Mapping[str, Any]) -> str:
    """The load of the last minute."""
    load = env.get("load")
    return "-" if not load else f"{load[0]:.2f}"


def meanwhile(env: Mapping[str, Any]) -> list[str]:
    """Clocks, temperature, throttling and other processes while it was timed, as far as they are known."""
    during, lines = env.get("during") or {}, []
    for name, words, unit in (
        ("sm_mhz", "GPU clock", "MHz"),
        ("memory_mhz", "GPU memory clock", "MHz"),
        ("temperature_c", "GPU temperature", "C"),
        ("power_w", "GPU power", "W"),
        ("cpu_mhz", "CPU clock", "MHz"),
        ("cpu_temperature_c", "CPU temperature", "C"),
    ):
        seen = during.get(name)
        if seen:
            spread = number(seen["median"], 4)
            if seen["low"] != seen["high"]:
                spread += f" ({number(seen['low'], 4)} to {number(seen['high'], 4)})"
            lines.append(f"{words} {spread} {unit}")
    throttled = during.get("throttle_reasons")
    if throttled is not None:
        seen = ", ".join(f"{reason} in {times} readings" for reason, times in throttled.items())
        lines.append(f"throttled by {seen}" if seen else "no throttling seen")
    if during.get("other_busy_cores") is not None:
        lines.append(
            f"other processes used {during['other_busy_cores']:.2f} cores"
            f" ({during.get('other_processes') or 0} of them a twentieth of a core or more)"
        )
    kernel = during.get("kernel_share")
    if kernel is not None:
        faults = during.get("page_faults_per_s")
        pages = "" if faults is None else f", with {faults:,.0f} page faults a second"
        lines.append(f"the kernel took {percent(100 * kernel)} of this process's time{pages}")
    if during.get("other_gpu_processes") is not None:
        lines.append(f"{during['other_gpu_processes']} other processes on the GPU")
    if during.get("unavailable"):
        lines.append(f"GPU state not read: {during['unavailable']}")
    return lines or ["nothing was read"]


def runs_table(rows: Sequence[Mapping[str, Any]], folder: str) -> Table:
    """Records of a folder, one line each."""
    table = Table(title=f"Records in {folder}", title_justify="left")
    for name in ("id", "status", "model", "size", "device", "dtype", "batch"):
        table.add_column(name, no_wrap=name == "id")
    table.add_column("median ms", justify="right")
    table.add_column("images/s", justify="right")
    table.add_column("machine")
    for row in rows:
        settings = row["settings"]
        table.add_row(
            row["id"],
            row["status"],
            row["title"] or row["model"],
            *(str(settings.get(key, "-")) for key in ("padded_size", "device", "dtype", "batch")),
            number(row["statistics"].get("latency_ms", {}).get("median"), 4),
            number(row["figures"].get("fps")),
            str(row["environment"].get("device_name", "-")),
        )
    return table


def difference_table(differences: Mapping[str, Sequence[Any]], first: str, second: str) -> Table:
    """Where two records differ."""
    table = Table(title="Differences", title_justify="left")
    for name in ("what", first, second):
        table.add_column(name)
    for key, (a, b) in differences.items():
        table.add_row(key, _short(a), _short(b))
    return table


def _short(value: Any) -> str:
    return number(value, 4) if isinstance(value, float) else str(value)
