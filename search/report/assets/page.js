// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [...document.querySelectorAll(".front-chart")]; // for wide and for narrow screens; one is shown
  const tooltip = document.getElementById("tooltip");
  const details = document.getElementById("details");
  const marks = charts.flatMap((chart) => [...chart.querySelectorAll(".mark[data-key]")]);
  const keyOf = new Map(Object.entries(data).map(([key, entry]) => [entry.name, key]));
  const trialOf = new Map(Object.entries(data).filter(([, entry]) => entry.parameters && entry.kind === "trial").map(([key, entry]) => [entry.name, key]));
  for (const [name, key] of trialOf) keyOf.set(name, key);
  const students = Object.keys(data).filter((key) => data[key].kind === "student");

  /** An element with text and children; text is never markup. */
  function make(tag, { className, text, children = [], ...attributes } = {}) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Details of one student or reference.
  function bars(entry) {
    const grid = make("div", { className: "bars" });
    for (const [label, value, shown, constant] of entry.bars) {
      const fill = make("i");
      fill.style.width = `${100 * Math.max(0, Math.min(1, value ?? 0))}%`;
      const bar = make("span", { className: "bar", children: [fill] });
      if (constant !== null) {
        const baseline = make("b", { title: "a constant vector" });
        baseline.style.left = `${100 * Math.max(0, Math.min(1, constant))}%`;
        bar.append(baseline);
      }
      grid.append(make("span", { text: label }), bar, make("span", { text: shown }));
    }
    return grid;
  }

  function command(words, line) {
    const copy = make("button", { className: "quiet", text: "Copy", type: "button", "aria-label": `Copy the command to ${words}` });
    const code = make("code", { text: line });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(line);
        copy.textContent = "Copied";
      } catch { // no clipboard in a sandbox: select the line, so that one key press copies it
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    return make("div", { className: "command", children: [code, copy] });
  }

  const SVG = "http://www.w3.org/2000/svg";

  function draw(tag, attributes) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function list(facts) {
    const names = make("dl");
    for (const [name, value] of Object.entries(facts)) names.append(make("dt", { text: name }), make("dd", { text: value }));
    return names;
  }

  // A trial's fidelity by training tokens beside that of its rivals (faint), and its numbers as a table.
  function curve(points, rivals) {
    const all = [points, ...rivals].flat(), most = Math.max(...all.map((point) => point.tokens));
    const low = Math.min(...all.map((point) => point.value)), span = Math.max(...all.map((point) => point.value)) - low || 1;
    const place = ({ tokens, value }) => [12 + 296 * tokens / most, 74 - 60 * (value - low) / span];
    const path = (line) => `M${line.map((point) => place(point).join(" ")).join("L")}`, places = points.map(place);
    const words = `Fidelity from ${points[0].shown} to ${points.at(-1).shown} over ${points.at(-1).tokens.toLocaleString("en")} training tokens`;
    const svg = draw("svg", { class: "chart curve", viewBox: "0 0 320 88", role: "img", "aria-label": words });
    svg.append(draw("path", { class: "axis", d: "M12 8V80H312" }),
      ...rivals.map((line) => draw("path", { class: "rival", d: path(line) })), draw("path", { class: "front", d: path(points) }),
      ...places.map(([cx, cy]) => draw("circle", { class: "step gained", cx, cy, r: 4 })));
    const head = ["tokens", "fidelity", "loss"].map((name) => make("th", { scope: "col", className: "number", text: name }));
    const rows = points.map((point) => make("tr", { children:
      [point.tokens.toLocaleString("en"), point.shown, point.loss].map((text) => make("td", { className: "number", text })) }));
    const table = make("table", { children: [make("thead", { children: [make("tr", { children: head })] }), make("tbody", { children: rows })] });
    return [svg, table];
  }

  function trialParts(entry) {
    const parts = [];
    if (entry.why) parts.push(make("h3", { text: "Why it ended" }), make("p", { text: entry.why }));
    if (entry.rivals?.length) {
      const line = make("p", { text: "Predicted to end ahead of it: " });
      entry.rivals.forEach((name, i) => {
        const key = keyOf.get(name);
        const button = make("button", { className: "link", type: "button", text: name });
        button.addEventListener("click", () => open(key));
        line.append(i ? ", " : "", key ? button : name);
      });
      parts.push(line);
    }
    const rivals = (entry.rivals ?? []).map((name) => data[keyOf.get(name)]?.curve ?? []).filter((line) => line.length);
    const title = rivals.length ? "Learning curve, and its rivals' (dashed)" : "Learning curve";
    if (entry.curve?.length) parts.push(make("h3", { text: title }), ...curve(entry.curve, rivals));
    if (entry.parameters && Object.keys(entry.parameters).length) parts.push(make("h3", { text: "Parameters" }), list(entry.parameters));
    if (entry.log) parts.push(make("h3", { text: "Log" }), make("pre", { text: entry.log, tabindex: "0" }));
    return parts;
  }

  let opener = null; // what opened the panel from below

  /** Shows an entry's panel and moves there; its button leads back. */
  function open(key, from = null) {
    opener = from ?? opener;
    choose(key);
    details.focus({ preventScroll: true });
    details.scrollIntoView({ block: details.offsetHeight > innerHeight ? "start" : "nearest" });
  }

  function choose(key) {
    const entry = data[key];
    if (!entry) return;
    for (const element of document.querySelectorAll(".card, .mark, .front-chart .trial, #numbers tbody tr")) {
      element.classList.toggle("chosen", element.dataset.key === key);
    }
    if (entry.kind === "trial") {
      try {
        history.replaceState(null, "", `#${encodeURIComponent(entry.name)}`);
      } catch { /* a page in a sandbox, such as MLflow's, has no address of its own */ }
      const latency = entry.latency ? { fidelity: entry.shown } : {};
      const back = make("button", { className: "quiet", type: "button", text: "Back to the table" });
      back.addEventListener("click", () => { opener?.focus(); opener?.scrollIntoView({ block: "center" }); });
      details.className = `panel trial ${entry.state ?? ""}`;
      details.replaceChildren(make("p", { className: "eyebrow", text: `trial, ${entry.state ?? entry.notes}` }), make("h2", { text: entry.name }),
        make("p", { className: "lead", text: entry.words }), list({ ...latency, ...entry.facts }), ...trialParts(entry), ...(opener ? [back] : []));
      details.hidden = false;
      return;
    }
    const facts = list({ latency: entry.latency, "95% interval": entry.interval, "speed-up": entry.speedup,
      parameters: entry.parameters, weights: entry.size });
    const version = entry.version === null ? "" : `, version ${entry.version}`;
    const parts = [
      make("p", { className: "eyebrow", text: entry.kind === "student" ? `student${version}` : entry.kind }),
      make("h2", { text: entry.name }),
      make("p", { className: "lead", text: entry.words }),
    ];
    if (entry.notes) {
      const badges = entry.notes.split(", ").map((note) => make("li", { text: note }));
      parts.push(make("ul", { className: "badges", children: badges }));
    }
    parts.push(facts, make("h3", { text: "Fidelity" }), bars(entry));
    if (entry.commands.length) parts.push(make("h3", { text: "Use it" }));
    for (const [words, line] of entry.commands) parts.push(command(words, line));
    if (trialOf.has(entry.name)) {
      const button = make("button", { className: "quiet", type: "button", text: "Its brief trial" });
      button.addEventListener("click", () => open(trialOf.get(entry.name)));
      parts.push(button);
    }
    parts.push(make("details", { children: [make("summary", { text: "Specification" }), make("pre", { text: entry.spec })] }));
    details.className = `panel ${entry.kind}`;
    details.replaceChildren(...parts);
    details.hidden = false;
  }

  // Tooltips.
  function describe(entry) {
    const lines = [make("b", { text: entry.name }), entry.words];
    if (entry.latency) lines.push(make("br"), `${entry.latency}, fidelity ${entry.shown}`);
    if (entry.speedup) lines.push(`, ${entry.speedup}`);
    if (entry.latency && entry.tokens) lines.push(` after ${entry.tokens} tokens`);
    if (entry.notes) lines.push(make("br"), entry.notes);
    return lines;
  }

  function showTooltip(element, lines = describe(data[element.dataset.key])) {
    tooltip.replaceChildren(...lines);
    tooltip.hidden = false;
    const box = element.getBoundingClientRect();
    const own = tooltip.getBoundingClientRect();
    const left = Math.max(8, Math.min(innerWidth - own.width - 8, box.left + box.width / 2 - own.width / 2));
    const above = box.top - own.height - 8;
    tooltip.style.left = `${left}px`;
    tooltip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  }

  const hideTooltip = () => { tooltip.hidden = true; };

  for (const element of charts.flatMap((chart) => [...chart.querySelectorAll("[data-key]")])) {
    const title = element.querySelector("title"); // the tooltip takes its place
    if (title) title.remove();
    element.addEventListener("pointerenter", () => showTooltip(element));
    element.addEventListener("pointerleave", hideTooltip);
    if (!element.classList.contains("mark")) { // a trial; by keyboard from the table of trials
      element.addEventListener("click", () => choose(element.dataset.key));
      continue;
    }
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "button");
    if (title) element.setAttribute("aria-label", title.textContent);
    element.addEventListener("focus", () => showTooltip(element));
    element.addEventListener("blur", hideTooltip);
    element.addEventListener("click", () => choose(element.dataset.key));
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(element.dataset.key);
      } else if (event.key === "Escape") hideTooltip();
    });
  }
  for (const box of document.querySelectorAll(".scroll:not([tabindex])")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // so that arrow keys scroll it
  }
  addEventListener("scroll", hideTooltip, { passive: true });

  // The search: every mark brings its own lines, and a link to a trial shows where it is on the front.
  for (const element of document.querySelectorAll(".search .tip")) {
    const title = element.querySelector("title");
    const [first, ...others] = title.textContent.split("\n");
    title.remove();
    const lines = () => [make("b", { text: first }), ...others.map((line) => make("span", { text: line }))];
    element.addEventListener("pointerenter", () => showTooltip(element, lines()));
    element.addEventListener("pointerleave", hideTooltip);
  }
  for (const anchor of document.querySelectorAll(".trial-link")) {
    const key = keyOf.get(anchor.textContent);
    anchor.addEventListener("click", (event) => {
      event.preventDefault();
      open(key, anchor);
    });
    anchor.addEventListener("pointerenter", () => showTooltip(anchor, describe(data[key])));
    anchor.addEventListener("pointerleave", hideTooltip);
    anchor.addEventListener("focus", () => showTooltip(anchor, describe(data[key])));
    anchor.addEventListener("blur", hideTooltip);
  }
  for (const button of document.querySelectorAll("#trials tbody button")) {
    button.addEventListener("click", () => open(button.dataset.key, button));
  }

  for (const element of document.querySelectorAll(".card, #numbers tbody tr")) {
    element.addEventListener("click", () => choose(element.dataset.key));
  }

  // The latency budget: the most faithful student within it.
  function milliseconds(value) {
    return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
  }

  function drawBudget(chart, budget, best) {
    const { left, right, top, bottom, low, high } = Object.fromEntries(
      Object.entries(chart.dataset).map(([name, value]) => [name, Number(value)]));
    for (const old of chart.querySelectorAll(".budget-line, .budget-beyond")) old.remove();
    for (const mark of chart.querySelectorAll(".mark[data-key]")) {
      mark.classList.toggle("over", data[mark.dataset.key].latency_ms > budget);
      mark.classList.toggle("best", budget < high && mark.dataset.key === best);
    }
    if (budget >= high) return;
    const x = left + (right - left) * Math.log(budget / low) / Math.log(high / low);
    const place = { x, y: top, width: right - x, height: bottom - top };
    chart.querySelector(".paper").after(draw("rect", { class: "budget-beyond", ...place }));
    chart.append(draw("line", { class: "budget-line", x1: x, x2: x, y1: top, y2: bottom }));
  }

  const range = document.getElementById("budget-range");
  const answer = document.getElementById("budget-answer");

  function updateBudget() {
    const low = Number(charts[0].dataset.low), high = Number(charts[0].dataset.high);
    const share = Number(range.value) / 1000;
    const budget = share >= 1 ? high : low * (high / low) ** share;
    const within = students.filter((key) => data[key].latency_ms <= budget);
    const best = within.reduce((a, b) => (a === null || data[b].value > data[a].value ? b : a), null);
    const words = share >= 1 ? "any" : `${milliseconds(budget)} ms`;
    document.getElementById("budget-value").textContent = words;
    range.setAttribute("aria-valuetext", words);
    if (best === null) {
      const fastest = students.reduce((a, b) => (data[b].latency_ms < data[a].latency_ms ? b : a));
      answer.replaceChildren("No student is that fast; the fastest takes ", make("b", { text: data[fastest].latency }), ".");
    } else {
      const entry = data[best];
      answer.replaceChildren("The most faithful within it: ", make("b", { text: `${entry.name} (${entry.short})` }),
        `, ${entry.latency}, fidelity ${entry.shown}, ${entry.speedup} the teacher’s speed.`);
    }
    for (const chart of charts) drawBudget(chart, budget, best);
    return best;
  }

  if (students.length) {
    document.getElementById("budget").hidden = false;
    range.addEventListener("input", () => {
      const best = updateBudget();
      if (best !== null) choose(best);
    });
    updateBudget();
  }

  // Tables that sort by their headings; cells without a number come last.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const numeric = head.classList.contains("number"), sign = ascending ? 1 : -1;
      const value = (row) => row.children[column].dataset.sort;
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => {
        if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
        return sign * (numeric ? value(a) - value(b) : value(a).localeCompare(value(b)));
      }));
    }));
  }

  // Light or dark: the reader's system decides until the button does.
  const theme = document.getElementById("theme");
  const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", `Use ${theme.textContent.toLowerCase()} colours`); };
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
  nameTheme();

  const first = document.querySelector(".card:nth-of-type(2)") ?? document.querySelector(".card, #numbers tbody tr");
  if (first) choose(first.dataset.key);
  const openNamed = () => {
    const key = keyOf.get(decodeURIComponent(location.hash.slice(1)));
    if (key) open(key, document.querySelector(`#trials button[data-key="${key}"]`));
  };
  addEventListener("hashchange", openNamed);
  addEventListener("load", () => setTimeout(openNamed)); // after the browser has scrolled to the trial's row
})();
