"use strict";
// Sortable columns and filters for every table of class "sortable".

(function tables() {
  const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /** What a cell sorts by: its number, its text, or null for an empty one, which always comes last. */
  function key(row, column) {
    const cell = row.cells[column];
    if (cell.classList.contains("number")) return cell.dataset.value ? Number(cell.dataset.value) : null;
    return cell.textContent.trim() || null;
  }

  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b));
  }

  function sort(table, column) {
    const heads = [...table.tHead.rows[0].cells];
    const descending = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return descending ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function addFilters(table) {
    const rows = [...table.tBodies[0].rows];
    const titles = [...table.tHead.rows[0].cells].map((head) => head.textContent);
    const chosen = new Map();
    const found = make("input", { type: "search", placeholder: "any text" });
    const count = make("output", { "aria-live": "polite" });
    const update = () => {
      const words = found.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits = [...chosen].every(([column, value]) => !value || row.cells[column].textContent === value);
        row.hidden = !(fits && words.every((word) => text.includes(word)));
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = shown ? `${shown} of ${rows.length} rows` : "nothing matches these filters";
    };
    const bar = make("div", { class: "filters", role: "group", "aria-label": `Filter: ${table.caption.textContent}` });
    for (const title of table.dataset.filters.split("|")) {
      const column = titles.indexOf(title);
      const values = [...new Set(rows.map((row) => row.cells[column].textContent))].sort(order.compare);
      const options = [["", "all"], ...values.map((value) => [value, value])];
      bar.append(dropDown(title, options, "", (value) => { chosen.set(column, value); update(); }));
    }
    bar.append(make("label", {}, "search", found), count);
    found.addEventListener("input", update);
    table.parentElement.before(bar);
    update();
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.dataset.filters) addFilters(table);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, column));
    });
  }
})();
