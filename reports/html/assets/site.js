"use strict";
// The leaderboard's search and budgets: which rows fit, and how many.

(function budgets() {
  const data = JSON.parse(document.getElementById("site-data").textContent);
  const place = document.getElementById("budgets");
  const body = document.querySelector("#models-table tbody");
  const bases = [...body.rows].map((row) => [row, data.rows[Number(row.dataset.key)], row.textContent.toLowerCase()]);
  const chosen = { words: [], total: Infinity, encoder: Infinity, ms: Infinity, setting: data.settings[0] ?? "" };

  /** Whether a figure is within a limit; a row without the figure cannot be shown to be. */
  function within(figure, limit) {
    return limit === Infinity || (figure !== null && figure <= limit);
  }

  /** Rows of the chosen setting; models without any time stay, unless a time is asked for. */
  function fits([, row, text]) {
    return chosen.words.every((word) => text.includes(word))
      && within(row.total, chosen.total)
      && within(row.encoder, chosen.encoder)
      && within(row.ms, chosen.ms)
      && (!chosen.setting || row.setting === chosen.setting || (row.ms === null && chosen.ms === Infinity));
  }

  const told = make("output", { "aria-live": "polite" });

  function update() {
    let shown = 0;
    for (const base of bases) {
      base[0].hidden = !fits(base);
      shown += base[0].hidden ? 0 : 1;
    }
    const mixed = chosen.setting ? "" : " Times of several settings are not to be compared.";
    told.textContent = (shown ? `${shown} of ${bases.length} rows.` : "No row is within these budgets.") + mixed;
  }

  function limit(label, field, unit) {
    const input = make("input", { type: "number", min: "0", step: "any", inputmode: "decimal", placeholder: "any", "aria-label": `${label}, ${unit}` });
    input.addEventListener("input", () => {
      chosen[field] = input.value.trim() === "" || !Number.isFinite(input.valueAsNumber) ? Infinity : input.valueAsNumber;
      update();
    });
    return make("label", {}, `${label}, ${unit}`, input);
  }

  const search = make("input", { type: "search", placeholder: "any text" });
  search.addEventListener("input", () => {
    chosen.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    update();
  });
  const bar = make("div", { class: "filters", role: "group", "aria-label": "Search and budgets" });
  bar.append(make("label", {}, "search", search));
  bar.append(limit("at most", "total", data.unit), limit("encoder at most", "encoder", data.unit));
  if (data.settings.length) {
    const named = data.settings.map((name) => [name, name.endsWith(`, ${data.size}`) ? name : `${name} (not the count's size)`]);
    bar.append(limit("at most", "ms", "ms"));
    bar.append(dropDown("on my device", [...named, ["", "any"]], chosen.setting, (value) => {
      chosen.setting = value;
      update();
    }));
  }
  bar.append(told);
  place.append(bar);
  place.hidden = false;
  update();
})();
