"use strict";
// The numbers behind the chart: what is selected, and which of it no other point beats.

const AXES = {
  gflops_encoder: { title: "Encoder GFLOPs", unit: "GMACs", less: true, counted: true, basis: "encoder_basis" },
  gflops_total: { title: "Total GFLOPs", unit: "GMACs", less: true, counted: true, basis: "total_basis" },
  latency_ms: { title: "Latency", unit: "ms", less: true, basis: "speed_basis" },
  fps: { title: "Images per second", unit: "FPS", less: false, basis: "speed_basis" },
  pq: { title: "PQ", unit: "%", less: false },
  miou: { title: "mIoU", unit: "%", less: false },
  ap: { title: "AP", unit: "%", less: false },
};
// Whole models first: beside encoders alone a larger backbone looks free.
const ACROSS = ["gflops_total", "gflops_encoder", "latency_ms", "fps"];
const UP = ["pq", "miou", "ap"];

/** What the cost of a point was taken on, an input or a machine: figures of two of them are not to be compared. */
const basis = (point, x) => point[AXES[x].basis];

/** Whether a point has figures on both axes, on this data set and in this convention; the user's own may name neither. */
function fits(point, choice) {
  return point[choice.x] !== null && point[choice.y] !== null
    && (point.dataset === choice.dataset || (point.source === "own" && !point.dataset))
    && (!AXES[choice.x].counted || !point.convention || point.convention === choice.convention);
}

/** Indices of the points that the selection keeps. */
function selected(points, choice) {
  return points.flatMap((point, index) => {
    const kept = fits(point, choice)
      && (basis(point, choice.x) === choice.basis || basis(point, choice.x) === "own")
      && choice.encoders.has(point.encoder)
      && choice.backbones.has(point.backbone)
      && choice.sources.has(point.source);
    return kept ? [index] : [];
  });
}

/** The choice nearest to this one that some point fits; what has just been chosen is kept. */
function mended(points, choice, kept, offered) {
  if (points.some((point) => fits(point, choice))) return choice;
  let [best, most] = [choice, -1];
  for (const x of offered.x) for (const y of offered.y) for (const dataset of offered.dataset) for (const convention of offered.convention) {
    const other = { ...choice, x, y, dataset, convention };
    const same = ["dataset", "x", "y", "convention"].filter((field) => other[field] === choice[field]).length;
    if (other[kept] === choice[kept] && same > most && points.some((point) => fits(point, other))) [best, most] = [other, same];
  }
  return best;
}

/** The bases that points of this selection have, the most frequent first; the user's own goes with all. */
function bases(points, choice) {
  const uses = new Map();
  for (const point of points) {
    if (fits(point, choice)) uses.set(basis(point, choice.x), (uses.get(basis(point, choice.x)) ?? 0) + 1);
  }
  if (uses.size > 1) uses.delete("own");
  return [...uses.keys()].sort((a, b) => (a === "") - (b === "") || uses.get(b) - uses.get(a));
}

/** The Pareto front: the indices that no other one beats on one axis without losing on the other; best x first. */
function front(points, indices, x, y) {
  const cost = (index) => (AXES[x].less ? points[index][x] : -points[index][x]);
  const gain = (index) => points[index][y];
  const sorted = [...indices].sort((a, b) => cost(a) - cost(b) || gain(b) - gain(a));
  const kept = [];
  for (const index of sorted) {
    const last = kept.at(-1);
    const same = last !== undefined && cost(last) === cost(index) && gain(last) === gain(index);
    if (last === undefined || gain(index) > gain(last) || same) kept.push(index);
  }
  return kept;
}

/** About `wanted` round numbers inside [low, high]. */
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const marks = [];
  for (let n = first; n * step <= high + step * 1e-9; n += 1) marks.push([n * step, (n * step).toFixed(digits)]);
  return marks;
}
