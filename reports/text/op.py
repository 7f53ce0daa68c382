"""Tables of the deformable-attention op: its timings, its builds, and which implementation runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table


def bench_table(record: Mapping[str, Any]) -> Table:
    """One row for each case and implementation of a ``segmeter.op-bench/1`` record."""
    table = Table(title=f"{record['device_name']}, {record['threads']} threads", title_justify="left")
    for name in ("shape", "dtype", "places", "pass", "implementation"):
        table.add_column(name)
    for name in ("median ms", "quartiles", "vs reference", "95 %", "MB", "GB/s", "of peak"):
        table.add_column(name, justify="right")
    for row in record["rows"]:
        low, high = row["quartiles_ms"]
        least, most = row["speedup_95"]
        table.add_row(
            *(row[name] for name in ("shape", "dtype", "places", "direction", "implementation")),
            f"{row['median_ms']:.3g}",
            f"{low:.3g} to {high:.3g}",
            f"{row['speedup']:.2f}x",
            f"{least:.2f} to {most:.2f}",
            f"{row['bytes_moved'] / 1e6:.1f}",
            f"{row['gb_per_s']:.1f}",
            f"{100 * row['share_of_peak']:.0f} %",
        )
    return table


def bench_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the timings."""
    return [
        f"peak        {record['peak_gb_per_s']:.1f} GB/s, measured by copying 256 MiB",
        *_host_line(record.get("host_us")),
        "bytes       each input that is needed read once, each output written once: the least possible",
        f"rounds      {record['rounds']}, all implementations in turn within each, {record['caches']} caches",
        *map(_left_out_line, record["left_out"]),
    ]


def _host_line(times: Mapping[str, float] | None) -> list[str]:
    if times is None:  # a record older than that
        return []
    told = ", ".join(f"{name} {time:.0f} us" for name, time in times.items())
    return [f"host        {told}: a call that has next to nothing to do"]


def _left_out_line(entry: Mapping[str, Any]) -> str:
    where = "" if entry["cases"] == "all" else f" ({', '.join(entry['cases'])})"
    return f"left out    {entry['implementation']}: {entry['reason']}{where}"


def implementations_table(record: Mapping[str, Any]) -> Table:
    """What runs for each device and dtype, of a ``segmeter.doctor/1`` record."""
    table = Table(title="deformable attention", title_justify="left")
    for name in ("device", "dtype", "runs", "why"):
        table.add_column(name)
    # Most often all dtypes of a device share one answer, and the whole stays on one screen.
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in record["implementations"]:
        alike.setdefault((row["device"], row["name"], row["reason"]), []).append(row["dtype"])
    for (device, name, reason), dtypes in alike.items():
        table.add_row(device, ", ".join(dtypes), name, reason)
    return table


def library_lines(record: Mapping[str, Any]) -> list[str]:
    """Which libraries' models the op speeds up, of a ``segmeter.doctor/1`` record; those alike in a line."""
    missing: dict[str, list[str]] = {}
    lines = []
    for row in record["libraries"]:
        if row["version"]:
            found = ", ".join(row["accelerated"]) or "none known"
            lines.append(f"{row['name']} {row['version']}, by {row['note']}: {found}")
        else:
            missing.setdefault(row["note"], []).append(row["name"])
    lines += [f"{', '.join(names)}: not installed; by {note}" for note, names in missing.items()]
    return ["", "other libraries' models that run on the op", *lines]


def drop_in_lines(record: Mapping[str, Any]) -> list[str]:
    """What is at hand beside the op, a line each."""
    return [f"{row['name']}: {row['state']}" for row in record["drop_ins"]]


def doctor_notes(record: Mapping[str, Any]) -> list[str]:
    """Versions and tools of a ``segmeter.doctor/1`` record, a line each."""
    gpus = ", ".join(f"{gpu['name']} (sm_{gpu['architecture']})" for gpu in record["gpus"])
    return [
        *(f"{name:<12}{version}" for name, version in record["versions"].items()),
        f"{'compiler':<12}{record['compiler']}",
        f"{'NVRTC':<12}{record['nvrtc']}",
        f"{'GPUs':<12}{gpus or 'none'}",
        f"{'cache':<12}{record['cache']}",
    ]


def build_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each build, and what was not asked for."""
    rows = list(rows)
    lines = [
        f"{row['what']}: {'ready' if row['ok'] else 'not built'} ({row['seconds']:.1f} s), {row['detail']}"
        for row in rows
    ]
    if len(rows) == 1:
        lines.append("CUDA kernels: none built, no NVIDIA GPU is here; --arch 90 builds for one elsewhere")
    return lines
