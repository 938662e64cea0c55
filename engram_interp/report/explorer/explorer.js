"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const memories = new Map(data.memories.map((one) => [one.name, one]));
  const quantities = Object.keys(data.quantities);
  const byId = (id) => document.getElementById(id);
  const state = {};

  // An element with its attributes and children. Text is only ever set as text, so names and answers cannot be markup.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((one) => one != null));
    return element;
  }
  const number = (value) => (value == null ? "–" : Number(value.toPrecision(3)).toString());
  const percent = (value) => (value == null ? "–" : `${(100 * value).toFixed(1)} %`);
  const memory = () => memories.get(state.memory);
  const other = () => memories.get(state.other);

  // The address says what is shown, so that it can be passed on.
  function read() {
    const asked = new URLSearchParams(location.hash.slice(1));
    state.memory = memories.has(asked.get("memory")) ? asked.get("memory") : data.memories[0].name;
    state.other = memories.has(asked.get("other")) && asked.get("other") !== state.memory ? asked.get("other") : "";
    state.quantity = [asked.get("quantity"), memory().main, ...quantities].find((name) => quantities.includes(name));
    state.matrix = Object.hasOwn(memory().matrices, asked.get("matrix")) ? asked.get("matrix") : "";
    const alphas = memory().strengths?.alphas ?? [];
    const place = alphas.indexOf(Number(asked.get("alpha") ?? NaN));
    state.alpha = place >= 0 ? place : alphas.indexOf(memory().strengths?.chosen);
  }

  function remember() {
    const alpha = memory().strengths?.alphas[state.alpha];
    const shown = { memory: state.memory, other: state.other, quantity: state.quantity, matrix: state.matrix, alpha };
    const kept = Object.entries(shown).filter(([, value]) => value !== "" && value != null);
    history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  }

  function change(part) {
    Object.assign(state, part);
    if (state.other === state.memory) state.other = "";
    if (!Object.hasOwn(memory().matrices, state.matrix)) state.matrix = "";
    const alphas = memory().strengths?.alphas ?? [];
    if (!(state.alpha in alphas)) state.alpha = alphas.indexOf(memory().strengths?.chosen);
    remember();
    show(part);
  }

  function show(part = state) {
    const whole = "memory" in part;
    if (whole) showControls();
    if (whole || "other" in part || "quantity" in part) showMaps();
    if (whole || "matrix" in part || "quantity" in part) showMatrix();
    if (whole || "alpha" in part) showAnswers(whole);
    for (const cell of document.querySelectorAll("button.cell")) {
      const keys = JSON.parse(cell.dataset.keys);
      cell.setAttribute("aria-pressed", String(cell.dataset.memory === state.memory && keys.includes(state.matrix)));
    }
  }

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
    select.value = chosen;
  }

  function showControls() {
    const names = [...memories.keys()];
    byId("sentence").textContent = memory().sentence;
    fill(byId("memory"), names.map((name) => [name, name]), state.memory);
    fill(byId("other"), [["", "nothing"], ...names.filter((name) => name !== state.memory).map((name) => [name, name])], state.other);
    byId("other").disabled = names.length < 2;
    fill(byId("quantity"), quantities.map((name) => [name, name]), state.quantity);
  }

  function showMaps() {
    const shown = other() ? [memory(), other()] : [memory()];
    byId("maps").replaceChildren(...shown.map((one) => make("div", { class: "scroll", tabindex: "-1" }, mapOf(one))));
    const { title, legend } = data.quantities[state.quantity];
    byId("legend").replaceChildren(
      make("span", {}, `${title}:`),
      ...legend.map(([text, colour]) => make("span", {}, make("span", { class: "swatch", style: `background: ${colour}` }), text)),
    );
    showScatter();
  }

  // Components are rows and layers columns; of a plain module, each matrix is a row.
  function mapOf(one) {
    const columns = one.isPlain ? [null] : [...Array(one.layers).keys()];
    const rows = one.components.map((component) => {
      const own = one.cells.filter((cell) => cell.component === component);
      const places = own.length && own.every((cell) => cell.layer === null) ? [own[0]] : columns.map((layer) => own.find((cell) => one.isPlain || cell.layer === layer));
      return make("tr", {}, make("th", { scope: "row" }, component), ...places.map((cell) => make("td", { colspan: places.length < columns.length ? columns.length : null }, cell ? cellOf(one, cell) : null)));
    });
    const heads = one.isPlain ? [] : [make("tr", {}, make("td"), ...columns.map((layer) => make("th", { scope: "col" }, `layer ${layer}`.slice(columns.length > 12 ? 6 : 0))))];
    const table = make("table", { class: columns.length > 12 ? "map narrow" : "map" }, make("caption", {}, `${one.name}: ${state.quantity}`), make("thead", {}, ...heads), make("tbody", {}, ...rows));
    table.addEventListener("keydown", moveInMap);
    const first = table.querySelector(".cell");
    if (first) first.tabIndex = 0;
    return table;
  }

  function cellOf(one, cell) {
    const value = cell.values[state.quantity];
    const star = cell.stars.includes(state.quantity) ? "*" : "";
    const where = cell.layer === null || one.isPlain ? cell.component : `${cell.component}, layer ${cell.layer}`;
    const narrow = one.layers > 12 && !one.isPlain;
    const button = make("button", {
      type: "button", class: cell.dark.includes(state.quantity) ? "cell dark" : "cell", tabindex: "-1",
      style: `background: ${cell.colours[state.quantity] ?? "var(--card)"}`, title: `${where}: ${number(value)}${star}`,
      "aria-label": `${where}: ${number(value)}${star ? ", stands out" : ""}`, "data-keys": JSON.stringify(cell.keys),
      "data-memory": one.name,
      onclick: () => change({ ...(one.name === state.memory ? {} : { memory: one.name, other: state.memory }), matrix: cell.keys[0] }),
    }, narrow ? star || "\u00a0" : number(value) + star);
    return button;
  }

  function moveInMap(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const cell = event.target.closest("td");
    if (!steps || !cell) return;
    event.preventDefault();
    const rows = [...event.currentTarget.querySelectorAll("tbody tr")];
    let row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
    for (;;) {
      row += steps[0];
      column += steps[1];
      const next = rows[row]?.cells[column] ?? (steps[0] ? rows[row]?.cells[1] : undefined);
      if (!next) return;
      const button = next.querySelector(".cell");
      if (!button) continue;
      for (const one of event.currentTarget.querySelectorAll(".cell")) one.tabIndex = -1;
      button.tabIndex = 0;
      button.focus();
      return;
    }
  }

  function plain(layout = {}) {
    const style = getComputedStyle(document.documentElement);
    const [text, line] = [style.getPropertyValue("--text").trim(), style.getPropertyValue("--line").trim()];
    const axis = (own = {}) => ({ gridcolor: line, zerolinecolor: line, automargin: true, ...own });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 13 }, height: 300,
      margin: { t: 40, r: 10, b: 50, l: 60 }, ...layout, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    };
  }
  const drawn = { responsive: true, displaylogo: false };

  function showScatter() {
    const place = byId("scatter");
    if (!other()) return Plotly.purge(place), place.replaceChildren();
    const [one, two] = [memory(), other()];
    const keys = Object.keys(one.matrices).filter((key) => key in two.matrices);
    const [x, y] = [one, two].map((from) => keys.map((key) => from.matrices[key][state.quantity].value));
    const larger = keys.map((_, i) => Math.max(x[i], y[i]));
    const third = [...larger].sort((a, b) => b - a)[2];
    const labels = keys.map((key, i) => (larger[i] >= third ? key.replace(/^blocks\./, "") : ""));
    const trace = { x, y, customdata: keys, text: labels, textposition: "middle left", mode: "markers+text", type: "scatter", marker: { color: "#d1495b", size: 8 }, hovertemplate: "%{customdata}<br>%{x:.3g}, %{y:.3g}<extra></extra>" };
    Plotly.newPlot(place, [trace], plain({ title: { text: `${state.quantity} of every matrix` }, height: 380, xaxis: { title: { text: one.name } }, yaxis: { title: { text: two.name } } }), drawn);
    place.on("plotly_click", (event) => change({ matrix: event.points[0].customdata }));
  }

  // What was asked for last is shown, whatever comes back when.
  let asked = 0;
  async function showMatrix() {
    const turn = ++asked, place = byId("inside"), key = state.matrix, one = memory();
    byId("matrix-heading").textContent = key || "One matrix";
    if (!key) return place.replaceChildren(make("p", { class: "note" }, "Choose a matrix in the map."));
    place.replaceChildren(numbersOf(one, key), headsOf(one, key), expertsOf(one, key));
    if (!(key in one.inside) && !data.live) {
      place.append(make("p", { class: "note" }, "The inside of this matrix was not computed. engram-interp explore with the model, or a larger n_matrices, has it."));
      return;
    }
    if (!(key in one.inside)) {
      const waiting = make("p", { class: "note", role: "status" }, "Looking into it …");
      place.append(waiting);
      try {
        const query = new URLSearchParams({ token: new URLSearchParams(location.search).get("token") ?? "", memory: one.name, key });
        const answer = await fetch(`matrix?${query}`);
        const found = await answer.json().catch(() => ({ error: answer.statusText }));
        if (!answer.ok) throw new Error(found.error);
        one.inside[key] = found;
      } catch (error) {
        if (turn === asked) waiting.replaceWith(make("p", { class: "error", role: "alert" }, `It could not be looked into: ${error.message}`));
        return;
      }
      if (turn !== asked) return;
      waiting.remove();
    }
    place.append(...insideOf(one, one.inside[key]));
    drawSpectra(one.inside[key]);
  }

  function numbersOf(one, key) {
    const rows = quantities.filter((name) => data.quantities[name].isSize).map((name) => {
      const found = one.matrices[key][name];
      const band = found.null_low == null ? number(found.expected) : `${number(found.null_low)} to ${number(found.null_high)}`;
      return make("tr", {}, make("th", { scope: "row" }, name), ...[number(found.value), band, number(found.excess), number(found.p_value)].map((text) => make("td", { class: "number" }, text)));
    });
    const heads = ["quantity", "value", "null", "excess", "p"].map((text) => make("th", { scope: "col" }, text));
    return make("div", {}, make("p", { class: "note" }, `Null: ${one.null}. Excess: how many times the null a size is; of score and reliance, how far above the other matrices.`), make("div", { class: "scroll" }, make("table", { id: "numbers" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
  }

  function headsOf(one, key) {
    const found = one.heads[key];
    if (!found) return make("div");
    const cells = found.heads.map((head, i) => {
      const { colours, dark, values } = found[state.quantity];
      const style = `background: ${colours[i] ?? "var(--card)"}`;
      return make("span", {}, String(head), make("span", { class: dark[i] ? "cell dark" : "cell", style }, number(values[i])));
    });
    const unit = one.isPlain ? "channel or head" : "head";
    return make("details", { open: found.heads.length <= 64, id: "heads" }, make("summary", {}, `${state.quantity} by ${unit}`), make("div", { class: "heads" }, ...cells));
  }

  function expertsOf(one, key) {
    const cell = one.cells.find((some) => some.keys.includes(key));
    if (!cell || cell.keys.length < 2) return make("div");
    const select = make("select", { onchange: (event) => change({ matrix: event.target.value }) });
    fill(select, cell.keys.map((name) => [name, name]), key);
    return make("p", {}, make("label", {}, "expert ", select));
  }

  function insideOf(one, found) {
    const named = { rank: "kept dimensions", condition: "condition number", obliqueness: "obliqueness |P| / |M|", stretch: "stretch |P|₂", target_passes: "target's energy that passes", reference_passes: "reference's energy that passes", wnorm: "W-Norm" };
    const facts = Object.entries(found.numbers).map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, named[name] ?? name), make("td", { class: "number" }, name.endsWith("_passes") ? percent(value) : number(value))));
    const parts = [make("h3", {}, "Spectrum of what it reads"), make("div", { id: "spectra", class: "columns" }, make("div", { id: "eigenvalues" }), make("div", { id: "shares" }), make("div", {}, make("table", {}, ...facts)))];
    if (found.reads.length) parts.push(make("h3", {}, "What its engram listens to"), directions(found.reads));
    if (found.writes.length) parts.push(make("h3", {}, "What its engram writes"), directions(found.writes));
    for (const note of found.notes) parts.push(make("p", { class: "note" }, note));
    if (found.n_asked) parts.push(make("h3", {}, `Answers that change when this matrix's engram alone is ablated, at alpha = ${number(one.strengths?.chosen)}: ${found.changed.length} of ${found.n_asked}`), changedTable(found.changed));
    return parts;
  }

  function directions(found) {
    const rows = found.map((one) => make("tr", {}, make("td", { class: "number" }, percent(one.share)), make("td", { class: "number" }, percent(one.control)), make("td", { class: "number" }, number(one.p_value)), make("td", { class: "tokens" }, ...one.tokens.map((token) => make("span", { class: "token" }, token)))));
    const heads = ["share of energy", "in random sets", "p", "tokens"].map((text) => make("th", { scope: "col" }, text));
    return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
  }

  function changedTable(changed) {
    if (!changed.length) return make("p", { class: "note" }, "None of them.");
    const rows = changed.map((one) => make("tr", {}, make("td", {}, one.side), ...answered(one.question, one.truth, one.before, one.after)));
    return answersTable(["side", "question", "true answer", "before", "after"], rows, "changed-table");
  }

  // A tick marks what is right, and bold letters what has changed.
  function answered(question, truth, before, after) {
    const of = (said, ...classes) => make("td", { class: [...classes, ...(said.trim() === truth ? ["right"] : [])].join(" ") }, said);
    return [make("td", {}, question), make("td", {}, truth), of(before), of(after, ...(after === before ? [] : ["changed"]))];
  }

  function answersTable(heads, rows, id) {
    return make("div", { class: "scroll" }, make("table", { id }, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows)));
  }

  function drawSpectra(found) {
    const line = (points) => ({ x: points.map((one) => one[0]), y: points.map((one) => one[1]), mode: "lines", line: { color: "#2e6f95" }, showlegend: false });
    const rank = { type: "log", title: { text: "direction, largest first" } };
    Plotly.newPlot(byId("eigenvalues"), [line(found.eigenvalues.filter((one) => one[1] > 0))], plain({ title: { text: "eigenvalues of S" }, xaxis: rank, yaxis: { type: "log", title: { text: "energy" } } }), drawn);
    const level = { type: "line", xref: "paper", x0: 0, x1: 1, y0: found.token_share, y1: found.token_share, line: { dash: "dot", color: "#d1495b" } };
    Plotly.newPlot(byId("shares"), [line(found.shares)], plain({ title: { text: "target's share of a direction" }, shapes: [level], xaxis: rank, yaxis: { range: [0, 1], title: { text: "share (dots: of tokens)" } } }), drawn);
  }

  function showAnswers(whole) {
    const found = memory().strengths;
    byId("answers-section").hidden = !found;
    if (!found) return;
    if (whole || !byId("alpha")) {
      const slider = make("input", { type: "range", id: "alpha", min: "0", max: String(found.alphas.length - 1), step: "1", "aria-label": "strength alpha", oninput: (event) => change({ alpha: Number(event.target.value) }) });
      byId("answers").replaceChildren(make("p", {}, make("label", { for: "alpha" }, "alpha "), slider, " ", make("output", { id: "alpha-value", for: "alpha" })), make("p", { id: "accuracy", class: "note" }), make("div", { id: "tables" }));
    }
    byId("alpha").value = String(state.alpha);
    const alpha = found.alphas[state.alpha];
    byId("alpha").setAttribute("aria-valuetext", `alpha = ${number(alpha)}`);
    byId("alpha-value").textContent = `${number(alpha)}${alpha === found.chosen ? " (the slider's start)" : ""}`;
    byId("accuracy").textContent = "Answer tokens right, each after the true ones before it: " + Object.entries(found.accuracy).map(([side, values]) => `${side} ${percent(values[0])} → ${percent(values[state.alpha])}`).join("; ") + ". Below are the model's own answers: bold ones have changed, and a tick marks those that are right.";
    const titles = { target: "The target's questions", reference: "Other questions" };
    byId("tables").replaceChildren(...Object.entries(found.answers).flatMap(([side, rows]) => [
      make("h3", {}, titles[side] ?? side),
      answersTable(["question", "true answer", "before", "after"], rows.map((row) => make("tr", {}, ...answered(row.question, row.truth, row.said[0], row.said[state.alpha]))), `answers-${side}`),
    ]));
  }

  function say(text) {
    byId("said").textContent = text;
    setTimeout(() => { byId("said").textContent = ""; }, 4000);
  }

  function download(name, content, type) {
    const address = URL.createObjectURL(new Blob([content], { type }));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  const fileName = (ending, ...parts) => `${parts.filter(Boolean).join("-")}.${ending}`.replace(/[^\w.-]+/g, "_");

  // A cell that begins like a formula would be one in a spreadsheet.
  function csvCell(value) {
    const text = value == null ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  // Every quantity with its null and p-value, in the columns of `to_frame`: [column, quantity, what of it].
  function columnsOf(shown) {
    const found = new Map(quantities.map((name) => [name, [name, name, "value"]]));
    for (const name of quantities) {
      for (const [kind, column] of Object.entries(data.quantities[name].columns)) {
        const isThere = shown.some((one) => Object.values(one.matrices).some((matrix) => kind in matrix[name]));
        if (isThere && !found.has(column)) found.set(column, [column, name, kind]);
      }
    }
    return [...found.values()];
  }

  function saveTable() {
    const shown = other() ? [memory(), other()] : [memory()];
    const columns = columnsOf(shown);
    const rows = shown.flatMap((one) => Object.entries(one.matrices).map(([key, found]) => [one.name, key, ...columns.map(([, name, kind]) => found[name][kind])]));
    const text = [["memory", "key", ...columns.map(([column]) => column)], ...rows].map((row) => row.map(csvCell).join(",")).join("\n");
    download(fileName("csv", "map", state.memory, state.other), `${text}\n`, "text/csv");
    say("The table is saved.");
  }

  async function savePicture() {
    const figure = memory().figures[state.quantity];
    await Plotly.downloadImage({ data: figure.data, layout: { ...figure.layout, width: 1100 } }, { format: "png", width: 1100, height: figure.layout.height ?? 500, scale: 2, filename: fileName("png", state.memory, state.quantity).slice(0, -4) });
    say("The picture is saved.");
  }

  async function copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      say("The address is copied.");
    } catch {
      say("The address bar holds the link.");
    }
  }

  byId("memory").addEventListener("change", (event) => change({ memory: event.target.value }));
  byId("other").addEventListener("change", (event) => change({ other: event.target.value }));
  byId("quantity").addEventListener("change", (event) => change({ quantity: event.target.value }));
  byId("csv").addEventListener("click", saveTable);
  byId("png").addEventListener("click", savePicture);
  byId("link").addEventListener("click", copyLink);
  addEventListener("hashchange", () => { read(); show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show());
  read();
  show();
})();
