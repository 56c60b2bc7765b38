// SPDX-License-Identifier: Apache-2.0
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.querySelector(".chart");
  const tooltip = document.getElementById("tooltip");
  const details = document.getElementById("details");
  const marks = [...chart.querySelectorAll(".mark[data-key]")];
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

  function choose(key) {
    const entry = data[key];
    if (!entry || entry.kind === "trial") return;
    for (const element of document.querySelectorAll(".card, .mark, #numbers tbody tr")) {
      element.classList.toggle("chosen", element.dataset.key === key);
    }
    const facts = make("dl");
    const rows = [["latency", entry.latency], ["95% interval", entry.interval], ["speed-up", entry.speedup],
      ["parameters", entry.parameters], ["weights", entry.size]];
    for (const [name, value] of rows) facts.append(make("dt", { text: name }), make("dd", { text: value }));
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
    parts.push(make("details", { children: [make("summary", { text: "Specification" }), make("pre", { text: entry.spec })] }));
    details.className = `panel ${entry.kind}`;
    details.replaceChildren(...parts);
    details.hidden = false;
  }

  // Tooltips.
  function describe(entry) {
    const lines = [make("b", { text: entry.name }), entry.words, make("br"), `${entry.latency}, fidelity ${entry.shown}`];
    if (entry.speedup) lines.push(`, ${entry.speedup}`);
    if (entry.tokens) lines.push(` after ${entry.tokens} tokens`);
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

  for (const element of chart.querySelectorAll("[data-key]")) {
    const title = element.querySelector("title"); // the tooltip takes its place
    if (title) title.remove();
    element.addEventListener("pointerenter", () => showTooltip(element));
    element.addEventListener("pointerleave", hideTooltip);
    if (!element.classList.contains("mark")) continue;
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
    const mark = document.getElementById(anchor.hash.slice(1));
    anchor.addEventListener("click", (event) => {
      event.preventDefault();
      location.replace(anchor.hash); // for the style of a target
      mark.scrollIntoView({ block: "center" });
      choose(mark.dataset.key);
      setTimeout(() => showTooltip(mark), 200); // after the scrolling, which hides it
    });
    anchor.addEventListener("pointerenter", () => showTooltip(anchor, describe(data[mark.dataset.key])));
    anchor.addEventListener("pointerleave", hideTooltip);
    anchor.addEventListener("focus", () => showTooltip(anchor, describe(data[mark.dataset.key])));
    anchor.addEventListener("blur", hideTooltip);
  }

  for (const element of document.querySelectorAll(".card, #numbers tbody tr")) {
    element.addEventListener("click", () => choose(element.dataset.key));
  }

  // The latency budget: the most faithful student within it.
  function milliseconds(value) {
    return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
  }

  function drawBudget(budget, best) {
    const { left, right, top, bottom, low, high } = Object.fromEntries(
      Object.entries(chart.dataset).map(([name, value]) => [name, Number(value)]));
    for (const old of chart.querySelectorAll(".budget-line, .budget-beyond")) old.remove();
    for (const mark of marks) {
      mark.classList.toggle("over", data[mark.dataset.key].latency_ms > budget);
      mark.classList.toggle("best", budget < high && mark.dataset.key === best);
    }
    if (budget >= high) return;
    const x = left + (right - left) * Math.log(budget / low) / Math.log(high / low);
    const line = document.createElementNS(chart.namespaceURI, "line");
    const beyond = document.createElementNS(chart.namespaceURI, "rect");
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", top], ["y2", bottom]]) line.setAttribute(name, value);
    for (const [name, value] of [["x", x], ["y", top], ["width", right - x], ["height", bottom - top]]) beyond.setAttribute(name, value);
    line.setAttribute("class", "budget-line");
    beyond.setAttribute("class", "budget-beyond");
    chart.querySelector(".paper").after(beyond);
    chart.append(line);
  }

  const range = document.getElementById("budget-range");
  const answer = document.getElementById("budget-answer");

  function updateBudget() {
    const low = Number(chart.dataset.low), high = Number(chart.dataset.high);
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
    drawBudget(budget, best);
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

  // A table that sorts by its headings.
  const heads = [...document.querySelectorAll("#numbers thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (row) => row.children[column].dataset.sort;
    const numeric = head.classList.contains("number");
    const body = document.querySelector("#numbers tbody");
    const rows = [...body.rows].sort((a, b) => (numeric ? value(a) - value(b) : value(a).localeCompare(value(b))));
    body.append(...(ascending ? rows : rows.reverse()));
  }));

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
})();
