"""Records beside each other, of this machine and of others: ratios to one model, and where machines differ.

Times of one process that were taken in turn give a ratio with its interval. Times of two processes, or of two
machines, give only a ratio of medians, whose interval knows nothing of what changed in between: said so.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from segmeter.harness.published import PRO_SCALE, published_rows
from segmeter.harness.records.runs import Run, environment_differences, in_one_runtime, runtime_of
from segmeter.model_text import ModelText
from segmeter.words import nearest

# What must be equal for two times to be compared at all. Threads and hardware are the environment's.
CONDITIONS = (
    *("padded_size", "batch", "dtype", "tf32", "device", "compile", "cuda_graph", "keep_memory", "inputs"),
    *("num_classes", "runtime"),
)
# What records from before a setting was there were measured with.
BEFORE = {"keep_memory": False}
BASELINE = "m2f"
FAMILY = ("m2f", "lite-m2f", "rt-m2f", "pro-scale")
DEFAULT_STAGES = "3,3,3"
# Tables 15's rows have no M2F beside them; Table 3 has it for the same data set, backbone and machine.
BASELINE_TABLE = {15: 3}


def compare_runs(runs: Sequence[Run], models: Sequence[str] = ()) -> dict[str, Any]:
    """Measured models under equal conditions, each against the first.

    Args:
        runs: records; those without a time are left out and counted.
        models: only these, as records write them, the first being what others are compared with. By default
            all, against M2F, or against the oldest where there is none. Models with different backbones are
            compared only when named.

    Raises:
        ValueError: nothing to compare, or a model without a record.
    """
    timed = [run for run in runs if run.status == "ok" and run.statistics.get("latency_ms", {}).get("median")]
    if not timed:
        raise ValueError(f"no record with a time among {len(runs)} records")
    known = list(dict.fromkeys(run.model for run in timed))
    for model in models:
        if model not in known:
            raise ValueError(f"no record of {model!r}{nearest(model, known)}")
    if models:
        timed = [run for run in timed if run.model in models]
    machines = _machines(timed)
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in timed:
        backbone = () if models else (ModelText.named(run.model).backbone,)
        groups[(*_conditions(run).values(), *backbone)].append(run)
    return {
        "groups": [_group(group, models, machines) for group in groups.values()],
        "environments": list(machines.values()),
        "same_environment": len(machines) == 1,
        "left_out": {run.id: run.status for run in runs if run.status != "ok"},
    }


def _conditions(run: Run) -> dict[str, Any]:
    return {**{key: run.settings.get(key, BEFORE.get(key)) for key in CONDITIONS}, "runtime": runtime_of(run)}


def _machines(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    """Each environment under a letter: its records, and in what it differs from the first."""
    firsts: dict[str, Run] = {}
    machines: dict[str, dict[str, Any]] = {}
    for run in runs:
        name = next((n for n, first in firsts.items() if not environment_differences(first, run)), "")
        if not name:
            name = chr(ord("A") + len(firsts)) if len(firsts) < 26 else f"E{len(firsts) + 1}"
            firsts[name] = run
            machines[name] = {
                "name": name,
                "device_name": run.environment.get("device_name", ""),
                "records": [],
                "differs_from_first": environment_differences(firsts["A"], run),
            }
        machines[name]["records"].append(run.id)
    return machines


def _group(runs: Sequence[Run], models: Sequence[str], machines: Mapping[str, Any]) -> dict[str, Any]:
    letter = {record: name for name, machine in machines.items() for record in machine["records"]}
    newest: dict[tuple[str, str], Run] = {}
    count: dict[tuple[str, str], int] = defaultdict(int)
    for run in runs:
        newest[run.model, letter[run.id]] = run
        count[run.model, letter[run.id]] += 1
    present = list(dict.fromkeys(run.model for run in runs))
    wanted = models[0] if models and models[0] in present else None
    baseline = wanted or next((m for m in present if ModelText.named(m).name == BASELINE), present[0])
    rows = []
    for (model, name), run in newest.items():
        latency = run.statistics["latency_ms"]
        row = {
            "id": run.id,
            "model": model,
            "title": run.title or model,
            "environment": name,
            "records": count[model, name],
            "median_ms": latency["median"],
            "low_ms": latency.get("low"),
            "high_ms": latency.get("high"),
            "fps": run.figures.get("fps"),
        }
        first_base = next((r for (m, _), r in newest.items() if m == baseline), None)
        base = newest.get((baseline, name)) if model != baseline else None
        rows.append({**row, **_ratio(run, baseline, base or first_base, base is not None)})
    first = runs[0]
    return {
        "settings": {**_conditions(first), "threads": first.settings.get("threads")},
        "baseline": baseline,
        "component_sums": _component_sums(newest.values()),
        "rows": sorted(rows, key=lambda row: (row["environment"], row["model"] != baseline)),
    }


def _component_sums(runs: Iterable[Run]) -> dict[str, float] | None:
    """How far the components' times are from the whole calls', as shares of them, over the records."""
    sums = [share for run in runs if (share := run.figures.get("component_sum_share"))]
    if not sums:
        return None
    return {"mean": fmean(sums), "lowest": min(sums), "highest": max(sums), "records": len(sums)}


def _ratio(run: Run, baseline: str, base: Run | None, same_machine: bool) -> dict[str, Any]:
    """How many times faster than the baseline, and how that is known."""
    nothing = {"times_faster": None, "low": None, "high": None, "verdict": "", "how": "baseline"}
    if run is base:
        return nothing
    for ratio in run.ratios if run.model != baseline else []:
        if ratio.get("baseline_model") == baseline and in_one_runtime(run, ratio):
            kept = {key: ratio[key] for key in ("times_faster", "low", "high", "verdict")}
            return {**kept, "how": f"in turn, {ratio['rounds']} rounds"}
    if base is None:
        return {**nothing, "how": "no record of the baseline"}
    a, b = base.statistics["latency_ms"], run.statistics["latency_ms"]
    # The extremes of both intervals: times that were not taken in turn share no noise that would cancel.
    low = a.get("low", a["median"]) / b.get("high", b["median"])
    least = b.get("low", b["median"])
    # An interval of few rounds may begin at 0: no ratio is the highest then.
    high = a.get("high", a["median"]) / least if least else None
    verdict = "faster" if low > 1 else "slower" if high is not None and high < 1 else "no difference"
    how = "medians of separate runs" if same_machine else "medians of different environments"
    return {
        "times_faster": a["median"] / b["median"],
        "low": low,
        "high": high,
        "verdict": verdict,
        "how": how,
    }


def _parts(model: str) -> dict[str, str]:
    """Encoder, backbone and stages of one of the family as it is written; empty for any other."""
    written = ModelText.named(model)
    others = [name for name, _ in written.options if name != "stages"]
    if written.name not in FAMILY or not written.backbone or others:
        return {}
    parts = {"encoder": written.name, "backbone": written.backbone, "stages": ""}
    if written.name == "pro-scale":
        parts["stages"] = written.option("stages") or DEFAULT_STAGES
    return parts


def beside_published(compared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paper's FPS on an A6000 as ratios to M2F, each beside the ratio measured here.

    One row for each FPS figure of the family in Tables 3, 9, 15 and 16, and for each set of conditions under
    which that model and M2F were measured. A figure without a measurement has one row without one.
    """
    rows = [row for row in published_rows() if row.paper == PRO_SCALE and row.metric == "fps"]
    own = [r for r in rows if r.model in FAMILY and r.modifier in ("", "+lpe")]
    found = []
    for row in own:
        if row.model == BASELINE:
            continue
        table = BASELINE_TABLE.get(row.table, row.table)
        base = next(
            r
            for r in own
            if (r.model, r.table, r.backbone, r.dataset) == (BASELINE, table, row.backbone, row.dataset)
        )
        figure = {
            "table": row.table,
            "model": row.model,
            "stages": row.variant,
            "backbone": row.backbone,
            "dataset": row.dataset,
            "image_size": row.image_size,
            "fps": row.value,
            "m2f_fps": base.value,
            "m2f_table": base.table,
            "times_faster": row.value / base.value,
        }
        measured = list(_measured(compared, row.model, row.variant, row.backbone))
        found += [{**figure, "measured": one} for one in measured] or [{**figure, "measured": None}]
    return found


def _measured(
    compared: Mapping[str, Any], encoder: str, stages: str, backbone: str
) -> Iterable[dict[str, Any]]:
    for group in compared["groups"]:
        if _parts(group["baseline"]).get("encoder") != BASELINE:
            continue
        for row in group["rows"]:
            parts = _parts(row["model"])
            if parts == {"encoder": encoder, "backbone": backbone, "stages": stages}:
                yield {**group["settings"], **row}
