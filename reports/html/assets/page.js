"use strict";
// Shared small helpers, the light and dark switch, and details that open when something links into them.

/** An element with attributes and children; strings become text, never markup. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "circle"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A labelled drop-down; options are [value, text] pairs. */
function dropDown(label, options, chosen, changed) {
  const select = make("select");
  for (const [value, text] of options) select.append(make("option", { value, selected: value === chosen }, text));
  select.addEventListener("change", () => changed(select.value));
  return make("label", {}, label, select);
}

(function theme() {
  const button = document.getElementById("theme");
  const kept = (value) => {
    // A page opened from a file may not be allowed to keep anything.
    try {
      if (value) localStorage.setItem("segmeter-theme", value);
      return localStorage.getItem("segmeter-theme");
    } catch {
      return null;
    }
  };
  const dark = () => {
    const set = document.documentElement.dataset.theme;
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => {
    button.textContent = dark() ? "Light colours" : "Dark colours";
  };
  const before = kept();
  if (before) document.documentElement.dataset.theme = before;
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    kept(document.documentElement.dataset.theme);
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
})();

(function openLinked() {
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();
})();
