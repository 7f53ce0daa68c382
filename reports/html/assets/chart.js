"use strict";
// The trade-off chart: filters, axes, Pareto front, zoom, and the record of the point under pointer or focus.

(function chart() {
  const place = document.getElementById("chart");
  if (!place) return;
  const points = JSON.parse(document.getElementById("points-data").textContent);
  const rows = new Map([...document.querySelectorAll("#points tbody tr")].map((row) => [Number(row.dataset.key), row]));
  const frontColumn = [...document.querySelectorAll("#points thead th")].length - 1;
  const MARKS = { published: "published", measured: "measured", own: "your own" };
  const SHAPES = {
    o: "M-5.5 0a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0Z",
    s: "M-5 -5H5V5H-5Z",
    D: "M0 -6.5L6.5 0L0 6.5L-6.5 0Z",
    "^": "M0 -6L6 5H-6Z",
    v: "M0 6L6 -5H-6Z",
    "<": "M-6 0L5 -6V6Z",
    ">": "M6 0L-5 -6V6Z",
    P: "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    X: "M-6 -3L-3 -6L0 -3L3 -6L6 -3L3 0L6 3L3 6L0 3L-3 6L-6 3L-3 0Z",
    p: "M0 -6L5.7 -1.9L3.5 4.9H-3.5L-5.7 -1.9Z",
    h: "M0 -6L5.2 -3V3L0 6L-5.2 3V-3Z",
    "*": "M0 -8.5L2.5 -2.8L8.6 -2.5L3.8 1.3L5.4 7.2L0 3.9L-5.4 7.2L-3.8 1.3L-8.6 -2.5L-2.5 -2.8Z",
  };
  const distinct = (field) => [...new Set(points.map((point) => point[field]))];
  const has = (field) => points.some((point) => point[field] !== null);
  const xs = ACROSS.filter(has);
  const ys = UP.filter(has);
  if (!xs.length || !ys.length) return;

  const choice = {
    x: xs[0], y: ys[0], dataset: "", convention: "", basis: "",
    encoders: new Set(distinct("encoder")), backbones: new Set(distinct("backbone")), sources: new Set(distinct("source")),
  };
  const byUse = (field) => distinct(field).sort((a, b) => uses(field, b) - uses(field, a));
  const uses = (field, value) =>
    points.filter((p) => p[field] === value && p[choice.x] !== null && p[choice.y] !== null).length;
  const datasets = byUse("dataset").filter(Boolean);
  const conventions = distinct("convention").filter(Boolean).sort((a, b) => (b === "published") - (a === "published"));
  choice.dataset = datasets[0] ?? "";
  choice.convention = conventions[0] ?? "";

  let view = null; // the zoomed part, [x0, x1, y0, y1] in the axes' units; null shows all
  let shown = [];
  let drawn = new Map();
  let current = null;
  let frame = null;

  // Controls ------------------------------------------------------------------------------------------------
  const reset = () => { view = null; draw(); };
  const basisPlace = make("div");
  /** Offer the inputs or machines that this selection has, and keep the one chosen if it is among them. */
  function offerBases() {
    const found = bases(points, choice);
    // An unknown input is shown when somebody asks for it, never by itself.
    if (!choice.basis || !found.includes(choice.basis)) choice.basis = found[0] ?? "";
    const names = found.map((name) => [name, name || "unknown (no front)"]);
    const title = AXES[choice.x].counted ? "Input counted" : "Speed taken on";
    basisPlace.replaceChildren(dropDown(title, names.length ? names : [["", "none"]], choice.basis, (value) => {
      choice.basis = value;
      reset();
    }));
  }
  const menus = {};
  /** Keep what was chosen, and move the other menus to where there are points, so that no choice shows nothing. */
  const chosen = (field) => (value) => {
    choice[field] = value;
    Object.assign(choice, mended(points, choice, field, { x: xs, y: ys, dataset: datasets, convention: conventions }));
    for (const [name, menu] of Object.entries(menus)) menu.querySelector("select").value = choice[name];
    offerBases();
    freshen();
    reset();
  };
  const menu = (field, ...others) => { menus[field] = dropDown(...others, choice[field], chosen(field)); return menus[field]; };
  const axisOptions = (names) => names.map((name) => [name, AXES[name].title]);
  const bar = make("div", { class: "filters" },
    menu("x", "Across", axisOptions(xs)),
    menu("y", "Up", axisOptions(ys)),
    menu("dataset", "Data set", datasets.map((name) => [name, name])),
    basisPlace,
    menu("convention", "Convention", conventions.map((name) => [name, name])));
  Object.assign(choice, mended(points, choice, "x", { x: xs, y: ys, dataset: datasets, convention: conventions }));
  offerBases();

  const chipLabels = [];
  /** Where none of the names that another data set or axis offers is ticked, all are: nobody unticked those. */
  function freshen() {
    const among = points.filter((p) => fits(p, choice) && [choice.basis, "own"].includes(basis(p, choice.x)));
    for (const field of ["encoder", "backbone", "source"]) {
      const names = new Set(among.map((point) => point[field]));
      if ([...names].some((name) => choice[`${field}s`].has(name))) continue;
      for (const [label, of, name] of chipLabels) {
        if (of !== field || !names.has(name)) continue;
        label.querySelector("input").checked = true;
        choice[`${field}s`].add(name);
      }
    }
  }
  /** Names that no point of this data set, input and pair of figures has are not offered. */
  function offerChips() {
    const among = points.filter((p) => fits(p, choice) && [choice.basis, "own"].includes(basis(p, choice.x)));
    for (const [label, field, name] of chipLabels) label.hidden = !among.some((point) => point[field] === name);
  }

  function swatch(colour, source, shape) {
    const icon = make("svg", { width: 18, height: 18, viewBox: "-9 -9 18 18", "aria-hidden": "true" });
    icon.append(make("g", { class: `point ${source} ${colour}` }, make("path", { d: SHAPES[shape] })));
    return icon;
  }

  /** A row of check boxes that are the legend as well. */
  function chips(title, field, names, icon, text = (name) => name) {
    const set = choice[field];
    const boxes = names.map((name) => {
      const box = make("input", { type: "checkbox", checked: true, value: name });
      box.addEventListener("change", () => {
        if (box.checked) set.add(name); else set.delete(name);
        reset();
      });
      return box;
    });
    const all = (on) => {
      const button = make("button", { type: "button", "aria-label": `${on ? "all" : "none"} of: ${title}` }, on ? "all" : "none");
      button.addEventListener("click", () => {
        for (const box of boxes) {
          box.checked = on;
          if (on) set.add(box.value); else set.delete(box.value);
        }
        reset();
      });
      return button;
    };
    const row = make("div", { class: "chips" });
    names.forEach((name, i) => {
      const label = make("label", { class: "chip" }, boxes[i], ...(icon ? [icon(name)] : []), text(name));
      row.append(label);
      chipLabels.push([label, field.slice(0, -1), name]);
    });
    if (names.length > 3) row.append(all(true), all(false));
    return make("fieldset", { "data-field": field }, make("legend", {}, title), row);
  }

  const ofSystem = (name) => points.find((point) => point.encoder === name);
  const FIRST = ["m2f", "lite-m2f", "rt-m2f", "pro-scale"];
  const place1 = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  const encoders = distinct("encoder").sort((a, b) => place1(a) - place1(b));
  const controls = [
    bar,
    chips("Encoder or system (colour)", "encoders", encoders, (name) => swatch(ofSystem(name).colour, "measured", ofSystem(name).shape)),
    chips("Backbone", "backbones", distinct("backbone").sort(), null, (name) => name || "not named"),
    chips("Where the figure comes from (hollow, filled, star)", "sources", distinct("source"), (name) => swatch("c-other", name, name === "own" ? "*" : "o"), (name) => MARKS[name]),
  ];

  // The drawing ---------------------------------------------------------------------------------------------
  const canvas = make("div", { class: "canvas" });
  const svg = make("svg", { role: "group", "aria-label": "Trade-off chart; the table below holds the same points" });
  canvas.append(svg);
  const card = make("div", { class: "card", id: "point-card" });
  const status = make("p", { class: "soft", role: "status", id: "chart-status" });
  const zoomTool = (text, factor) => {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => zoom(factor));
    return button;
  };
  const whole = zoomTool("Show all", null);
  whole.id = "zoom-reset";
  const tools = make("div", { class: "tools", role: "group", "aria-label": "Zoom" },
    zoomTool("Zoom in", 0.6), zoomTool("Zoom out", 1 / 0.6), whole,
    make("span", { class: "soft" }, "Drag to zoom; arrow keys walk the points."));
  place.replaceChildren(...controls, make("div", { class: "stage" }, canvas, card), tools, status);
  place.hidden = false;

  /** Ends of a figure's error bar; the figure itself twice where no spread is known. */
  const ends = (point, axis) => {
    const spread = point.spread?.[axis];
    return spread ? [spread.low, spread.high] : [point[axis], point[axis]];
  };

  /** The axes' limits for these points, with some room around them. */
  function limits(indices) {
    const side = (axis) => {
      const values = indices.flatMap((i) => ends(points[i], axis));
      const low = Math.min(...values);
      const high = Math.max(...values);
      const room = (high - low || Math.abs(high) || 1) * 0.08;
      return [low - room, high + room];
    };
    const [x0, x1] = side(choice.x);
    return [Math.max(0, x0), x1, ...side(choice.y)];
  }

  function zoom(factor) {
    if (factor === null || !shown.length) return reset();
    const [x0, x1, y0, y1] = view ?? limits(shown);
    const at = current !== null && drawn.has(current) ? points[current] : null;
    const around = (low, high, middle) => [middle - ((middle - low) * factor), middle + ((high - middle) * factor)];
    view = [...around(x0, x1, at ? at[choice.x] : (x0 + x1) / 2), ...around(y0, y1, at ? at[choice.y] : (y0 + y1) / 2)];
    view[0] = Math.max(0, view[0]);
    draw();
  }

  function draw() {
    const focused = svg.contains(document.activeElement);
    shown = selected(points, choice);
    const best = choice.basis || !shown.some((i) => !basis(points[i], choice.x)) ? front(points, shown, choice.x, choice.y) : [];
    tellTable(best);
    tellStatus(best);
    offerChips();
    whole.disabled = view === null;
    const width = Math.max(260, canvas.clientWidth);
    const height = Math.round(Math.min(560, Math.max(350, width * 0.74)));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.height = `${height}px`;
    drawn = new Map();
    svg.replaceChildren();
    if (!shown.length) {
      svg.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle", class: "chart-title" }, "No point fits this selection."));
      return show(null);
    }
    const [x0, x1, y0, y1] = view ?? limits(shown);
    frame = { left: 46, right: width - 10, top: 26, bottom: height - 44, x0, x1, y0, y1 };
    const px = (value) => frame.left + ((value - x0) / (x1 - x0)) * (frame.right - frame.left);
    const py = (value) => frame.bottom - ((value - y0) / (y1 - y0)) * (frame.bottom - frame.top);
    drawAxes(px, py, width, height);
    drawFront(best, px, py);
    const group = make("g", { role: "listbox", "aria-label": "Points, from left to right", "aria-orientation": "horizontal" });
    const onFront = new Set(best);
    const inside = (i) => {
      const [x, y] = [points[i][choice.x], points[i][choice.y]];
      return x >= x0 && x <= x1 && y >= y0 && y <= y1;
    };
    const visible = shown.filter(inside).sort((a, b) => points[a][choice.x] - points[b][choice.x] || a - b);
    // The front is drawn last, on top; the order for keys is by x and does not depend on it.
    const painted = [...visible].sort((a, b) => onFront.has(a) - onFront.has(b));
    for (const index of painted) group.append(drawPoint(index, onFront.has(index), px, py));
    if (visible.length) svg.append(group);
    drawLabels(best.filter((i) => drawn.has(i)), px, py);
    walk = visible;
    if (!drawn.has(current)) current = best.find((i) => drawn.has(i)) ?? visible[0] ?? null;
    show(current, focused);
  }

  let walk = [];

  function drawAxes(px, py, width, height) {
    const { left, right, top, bottom, x0, x1, y0, y1 } = frame;
    for (const [value, text] of ticks(x0, x1, (right - left) / 85)) {
      svg.append(make("line", { class: "chart-grid", x1: px(value), x2: px(value), y1: top, y2: bottom }),
        make("text", { class: "chart-text", x: px(value), y: bottom + 17, "text-anchor": "middle" }, text));
    }
    for (const [value, text] of ticks(y0, y1, (bottom - top) / 55)) {
      svg.append(make("line", { class: "chart-grid", x1: left, x2: right, y1: py(value), y2: py(value) }),
        make("text", { class: "chart-text", x: left - 6, y: py(value) + 4, "text-anchor": "end" }, text));
    }
    const [across, up] = [AXES[choice.x], AXES[choice.y]];
    const better = across.less ? "\u2190 less is better" : "more is better \u2192";
    svg.append(
      make("path", { class: "chart-axis", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }),
      make("text", { class: "chart-title", x: right, y: height - 8, "text-anchor": "end" }, `${across.title}, ${across.unit} (${better})`),
      make("text", { class: "chart-title", x: 4, y: 15 }, `${up.title}, ${up.unit} on ${choice.dataset}`));
  }

  /** The front as a staircase: what is below and behind it is beaten by some point. */
  function drawFront(best, px, py) {
    if (!best.length) return;
    const { left, right, top, bottom } = frame;
    const hold = (value, low, high) => Math.min(high, Math.max(low, value));
    let path = "";
    best.forEach((index, i) => {
      const x = hold(px(points[index][choice.x]), left, right);
      const y = hold(py(points[index][choice.y]), top, bottom);
      path += i === 0 ? `M${x} ${bottom}V${y}` : `H${x}V${y}`;
    });
    svg.append(make("path", { class: "chart-front", d: `${path}H${AXES[choice.x].less ? right : left}` }));
  }

  function drawPoint(index, isFront, px, py) {
    const point = points[index];
    const [x, y] = [px(point[choice.x]), py(point[choice.y])];
    drawn.set(index, [x, y]);
    const mark = make("g", {
      class: `point ${point.source} ${point.colour}${isFront ? "" : " behind"}`, role: "option", tabindex: "-1",
      "aria-selected": "false", "aria-label": spoken(point, isFront), "data-index": index, "data-front": String(isFront),
    });
    const bar = (x1, x2, y1, y2) => make("line", { class: "chart-bar", x1, x2, y1, y2 });
    if (point.spread?.[choice.x]) mark.append(bar(...ends(point, choice.x).map(px), y, y));
    if (point.spread?.[choice.y]) mark.append(bar(x, x, ...ends(point, choice.y).map(py)));
    const sign = make("g", { transform: `translate(${x} ${y})` }, make("circle", { class: "ring", r: 11 }), make("path", { d: SHAPES[point.shape] }));
    mark.append(sign);
    mark.addEventListener("focus", () => { if (current !== index) show(index); });
    return mark;
  }

  /** Names of the front's points where there is room for them. */
  function drawLabels(best, px, py) {
    const taken = [...drawn.values()].map(([x, y]) => [x - 7, x + 7, y - 7, y + 7]);
    const several = new Set(shown.map((index) => points[index].backbone)).size > 1;
    const named = new Set();
    for (const index of best) {
      const [x, y] = drawn.get(index);
      const text = points[index].label + (several && points[index].backbone ? `, ${points[index].backbone}` : "");
      if (named.has(text)) continue;
      const wide = text.length * 6.6;
      const spots = [[x + 10, y - 8, "start"], [x + 10, y + 17, "start"], [x - 10, y - 8, "end"], [x, y - 14, "middle"]];
      for (const [tx, ty, anchor] of spots) {
        const start = anchor === "start" ? tx : anchor === "end" ? tx - wide : tx - wide / 2;
        const box = [start, start + wide, ty - 11, ty + 3];
        const free = box[0] > frame.left && box[1] < frame.right && box[2] > frame.top - 6 && box[3] < frame.bottom
          && taken.every((other) => box[1] < other[0] || box[0] > other[1] || box[3] < other[2] || box[2] > other[3]);
        if (!free) continue;
        taken.push(box);
        named.add(text);
        svg.append(make("text", { class: "point-label", x: tx, y: ty, "text-anchor": anchor, "aria-hidden": "true" }, text));
        break;
      }
    }
  }

  // What is told about points -------------------------------------------------------------------------------
  const figure = (value) => (Math.abs(value) >= 0.01 || !value ? String(Math.round(value * 100) / 100) : value.toPrecision(2));
  const spoken = (point, isFront) =>
    `${point.label}, ${point.backbone}, ${MARKS[point.source]}: ${AXES[choice.x].title} ${figure(point[choice.x])}, `
    + `${AXES[choice.y].title} ${figure(point[choice.y])}${isFront ? ", on the front" : ""}`;

  function tellTable(best) {
    const [kept, onFront] = [new Set(shown), new Set(best)];
    for (const [index, row] of rows) {
      row.hidden = !kept.has(index);
      row.cells[frontColumn].textContent = onFront.has(index) ? "yes" : "no";
    }
  }

  function tellStatus(best) {
    const names = best.slice(0, 4).map((index) => points[index].label);
    const more = best.length > names.length ? ` and ${best.length - names.length} more` : "";
    status.textContent = shown.length
      ? `${choice.dataset}${choice.basis ? `, ${choice.basis}` : ""}: ${shown.length} of ${points.length} points shown, ${best.length} on the Pareto front${names.length ? `: ${names.join(", ")}${more}` : ""}.`
      : "No point fits this selection: choose another data set or axis, or tick more encoders.";
  }

  /** Make a point the current one: its ring, its place in the tab order, its record in the card. */
  function show(index, focus = false) {
    for (const mark of svg.querySelectorAll(".point")) {
      const here = Number(mark.dataset.index) === index;
      mark.classList.toggle("here", here);
      mark.setAttribute("tabindex", here ? "0" : "-1");
      mark.setAttribute("aria-selected", String(here));
      if (here && focus) mark.focus({ preventScroll: true });
    }
    current = index;
    if (index === null) return card.replaceChildren(make("p", { class: "soft" }, "Nothing to show."));
    const point = points[index];
    const list = make("dl");
    const line = (name, value) => {
      if (value !== null && value !== undefined && value !== "") list.append(make("dt", {}, name), make("dd", {}, value));
    };
    line("encoder", point.encoder);
    line("backbone", point.backbone);
    line("data set", point.dataset);
    for (const axis of [...ACROSS, ...UP]) {
      if (point[axis] === null) continue;
      const spread = point.spread?.[axis];
      const unit = AXES[axis].unit === "FPS" || AXES[axis].unit === "%" ? "" : ` ${AXES[axis].unit}`;
      line(AXES[axis].title, `${figure(point[axis])}${unit}${spread ? ` (${figure(spread.low)} to ${figure(spread.high)}, ${spread.kind})` : ""}`);
    }
    line(AXES[choice.x].counted ? "input" : "timed on", basis(point, choice.x) || "unknown");
    line("counted as", point.convention);
    line("figure", MARKS[point.source]);
    card.replaceChildren(make("h3", {}, point.label), list);
    if (point.reference) card.append(make("p", {}, `From: ${point.reference}`));
    if (point.command) card.append(make("p", {}, "Command: ", make("code", {}, point.command)));
    if (point.note) card.append(make("p", { class: "soft" }, point.note));
  }

  // Pointer and keys ----------------------------------------------------------------------------------------
  const place2d = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const nearest = ([x, y], reach) => {
    let [found, least] = [null, reach];
    for (const [index, [px, py]] of drawn) {
      const distance = Math.hypot(px - x, py - y);
      if (distance < least) [found, least] = [index, distance];
    }
    return found;
  };
  let drag = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.button || event.pointerType === "touch" || !drawn.size) return;
    drag = { from: place2d(event), box: make("rect", { class: "chart-zoom" }) };
    svg.append(drag.box);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    const at = place2d(event);
    if (drag) {
      const [x, y] = [Math.min(at[0], drag.from[0]), Math.min(at[1], drag.from[1])];
      drag.box.setAttribute("x", x);
      drag.box.setAttribute("y", y);
      drag.box.setAttribute("width", Math.abs(at[0] - drag.from[0]));
      drag.box.setAttribute("height", Math.abs(at[1] - drag.from[1]));
      return;
    }
    const index = nearest(at, 26);
    if (index !== null && index !== current) show(index);
  });
  const drop = (event) => {
    if (!drag) return;
    const [from, to] = [drag.from, place2d(event)];
    drag.box.remove();
    drag = null;
    if (event.type === "pointercancel" || Math.abs(to[0] - from[0]) < 8 || Math.abs(to[1] - from[1]) < 8) return;
    const { left, right, top, bottom, x0, x1, y0, y1 } = frame;
    const atX = (x) => x0 + ((Math.min(right, Math.max(left, x)) - left) / (right - left)) * (x1 - x0);
    const atY = (y) => y1 - ((Math.min(bottom, Math.max(top, y)) - top) / (bottom - top)) * (y1 - y0);
    const sides = (a, b) => (a < b ? [a, b] : [b, a]);
    const wanted = [...sides(atX(from[0]), atX(to[0])), ...sides(atY(from[1]), atY(to[1]))];
    if (wanted[0] === wanted[1] || wanted[2] === wanted[3]) return;
    view = wanted;
    draw();
  };
  svg.addEventListener("pointerup", drop);
  svg.addEventListener("pointercancel", drop);
  svg.addEventListener("click", (event) => {
    const index = nearest(place2d(event), 26);
    if (index !== null) show(index, true);
  });
  svg.addEventListener("keydown", (event) => {
    const at = walk.indexOf(current);
    const byHeight = [...walk].sort((a, b) => points[a][choice.y] - points[b][choice.y] || a - b);
    const level = byHeight.indexOf(current);
    const next = {
      ArrowRight: walk[at + 1], ArrowLeft: walk[at - 1], Home: walk[0], End: walk.at(-1),
      ArrowUp: byHeight[level + 1], ArrowDown: byHeight[level - 1],
    };
    if (event.key in next) {
      if (next[event.key] !== undefined) show(next[event.key], true);
      event.preventDefault();
    } else if (event.key === "+") zoom(0.6);
    else if (event.key === "-") zoom(1 / 0.6);
    else if (event.key === "0" || event.key === "Escape") reset();
  });

  new ResizeObserver(() => { if (canvas.clientWidth) draw(); }).observe(canvas);
})();
