"use strict";
// All text goes in by textContent: names and configs may hold anything.
const data = JSON.parse(document.getElementById("data").textContent);
const { runs, metrics, base } = data;
const COLOURS = ["#1a5fb4", "#c01c28", "#26a269", "#e66100", "#813d9c", "#00858a", "#986a44",
  "#d5549a", "#5e5c64", "#b5a000"];
const FIXED = [
  ["run", (r) => r.name], ["method", (r) => r.kind], ["data", (r) => r.data],
  ["backbone", (r) => r.backbone], ["status", (r) => r.status],
  ["progress", (r) => (r.epochs ? r.epoch / r.epochs : null)],
  ["img/s", (r) => r.speed], ["changes", (r) => r.changes], ["evaluations", (r) => r.evaluations],
];
const NUMBERS = new Set(["progress", "img/s"]);
const USED = FIXED.filter(([, get]) => runs.some((run) => get(run))).map(([title]) => title);
const $ = (id) => document.getElementById(id);
const state = {
  sort: null, down: true, chosen: new Set(), columns: new Set(data.shown), words: [],
};

function make(tag, parent, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (kind) node.className = kind;
  if (parent) parent.append(node);
  return node;
}

function long(row, text, kind) {
  const cell = make("td", row, undefined, `long ${kind || ""}`);
  make("div", cell, text).title = text;
}

function written(name, value) {
  if (value === undefined || value === null) return "";
  const form = metrics[name].form;
  if (form === "percent") return value.toFixed(2);
  if (form === "share") return value.toFixed(3);
  return Math.abs(value) >= 1e4 || (value && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min left`;
}

function valueOf(name) {
  const fixed = FIXED.find(([title]) => title === name);
  return fixed ? fixed[1] : (run) => run.values[name];
}

function shownRuns() {
  const found = runs.filter((run) => state.words.every((word) => run.text.includes(word)));
  if (state.sort === null) return found;
  const get = valueOf(state.sort), sign = state.down ? -1 : 1;
  const missing = (v) => v === undefined || v === null || v === "";
  return found.sort((a, b) => {
    const x = get(a), y = get(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
  });
}

function columns() {
  return [...USED, ...Object.keys(metrics).filter((name) => state.columns.has(name))];
}

function drawHead() {
  const head = $("runs").tHead;
  head.replaceChildren();
  const row = make("tr", head);
  make("th", row, "");
  for (const name of columns()) {
    const mark = state.sort === name ? (state.down ? " ▾" : " ▴") : "";
    const cell = make("th", row, (metrics[name] ? metrics[name].label : name) + mark);
    cell.dataset.name = name;
    if (metrics[name]) cell.title = name;
    cell.onclick = () => {
      state.down = state.sort === name ? !state.down : metrics[name] !== undefined
        || NUMBERS.has(name);
      state.sort = name;
      drawHead();
      drawRows();
    };
  }
}

const CELLS = {
  run(row, run) {
    const cell = make("td", row, undefined, "name");
    cell.title = run.path;
    if (!run.report) {
      cell.textContent = run.name;
      return;
    }
    const link = make("a", cell, run.name);
    link.href = run.report;
    link.onclick = (event) => event.stopPropagation();
  },
  status(row, run) {
    const told = run.left !== null ? `${run.status}, ${duration(run.left)}` : run.status;
    if (run.error) long(row, `${told}: ${run.error}`, run.status);
    else make("td", row, told, `status ${run.status}`);
  },
  progress(row, run) {
    const cell = make("td", row, undefined, "number");
    if (!run.epochs) return;
    const bar = make("span", cell, "", "bar");
    make("i", bar).style.width = `${Math.min(100, (100 * run.epoch) / run.epochs)}%`;
    cell.append(`${run.epoch}/${run.epochs}`);
  },
  "img/s"(row, run) {
    make("td", row, run.speed === null ? "" : run.speed.toFixed(0), "number");
  },
  changes: (row, run) => long(row, run.changes),
  evaluations: (row, run) => long(row, run.evaluations),
};

function drawRow(run) {
  const row = document.createElement("tr");
  row.dataset.run = run.name;
  if (state.chosen.has(run)) row.className = "chosen";
  const mark = make("td", row);
  if (state.chosen.has(run)) make("span", mark, "", "swatch").style.background = colour(run);
  for (const column of columns()) {
    if (CELLS[column]) CELLS[column](row, run);
    else if (metrics[column]) make("td", row, written(column, run.values[column]), "number");
    else make("td", row, valueOf(column)(run));
  }
  row.onclick = () => choose(run);
  return row;
}

function drawRows() {
  const found = shownRuns();
  $("runs").tBodies[0].replaceChildren(...found.map(drawRow));
  $("count").textContent = `${found.length} of ${runs.length} runs, ${state.chosen.size} chosen`;
  drawScatter(found);
}

function choose(run) {
  if (!state.chosen.delete(run)) state.chosen.add(run);
  drawRows();
  drawCurves();
  drawDifferences();
}

const colour = (run) => COLOURS[[...state.chosen].indexOf(run) % COLOURS.length];

function plot(place, options, series) {
  place.replaceChildren();
  return new uPlot({ width: Math.min(1000, place.clientWidth || 1000), height: 320, ...options },
    series, place);
}

function drawCurves() {
  const place = $("curves"), name = $("curve").value, over = $("over").value === "epoch" ? 1 : 0;
  const drawn = [...state.chosen].filter((run) => run.curves.of[name]);
  if (!drawn.length) {
    const empty = state.chosen.size ? "No chosen run has this value."
      : "Click on rows to choose runs.";
    place.replaceChildren(make("p", null, empty, "empty"));
    return;
  }
  const tables = drawn.map((run) => {
    const [grid, values] = run.curves.of[name], x = run.curves.grids[grid][over];
    const kept = new Map(x.map((at, i) => [at, values[i]]));
    const sorted = [...kept.keys()].filter((at) => at !== null).sort((a, b) => a - b);
    return [sorted, sorted.map((at) => kept.get(at))];
  });
  const series = drawn.map((run) => ({
    label: run.name, stroke: colour(run), width: 1.5, spanGaps: true,
    value: (_, v) => (v === null || v === undefined ? "" : written(name, v)),
  }));
  plot(place, {
    scales: { x: { time: false }, y: { distr: $("log").checked ? 3 : 1 } },
    axes: [{ label: $("over").value }, { label: metrics[name].label, size: 70 }],
    series: [{ label: $("over").value }, ...series],
  }, uPlot.join(tables));
}

function drawScatter(found) {
  const place = $("scatter"), x = $("across").value, y = $("up").value;
  const points = found.filter((r) => Number.isFinite(r.values[x]) && Number.isFinite(r.values[y]))
    .sort((a, b) => a.values[x] - b.values[x]);
  $("point").textContent = `${points.length} runs have both`;
  if (!points.length) {
    place.replaceChildren(make("p", null, "No run that is shown has both values.", "empty"));
    return;
  }
  const xs = points.map((r) => r.values[x]), pick = (test) => points.map(
    (r) => (test(r) ? r.values[y] : null));
  const dots = (label, stroke, size) => ({
    label, stroke, paths: () => null, points: { show: true, size, fill: stroke },
    value: (_, v) => (v === null || v === undefined ? "" : written(y, v)),
  });
  plot(place, {
    scales: { x: { time: false } }, legend: { show: false },
    axes: [{ label: metrics[x].label }, { label: metrics[y].label, size: 70 }],
    series: [
      {}, dots("runs", "#8a8f98", 6),
      ...[...state.chosen].map((run) => dots(run.name, colour(run), 9)),
    ],
    hooks: {
      setCursor: [(u) => {
        const run = points[u.cursor.idx];
        $("point").textContent = run
          ? `${run.name}: ${written(x, run.values[x])}, ${written(y, run.values[y])}`
          : `${points.length} runs have both`;
      }],
    },
  }, [
    xs, pick((r) => !state.chosen.has(r)), ...[...state.chosen].map((run) => pick((r) => r === run)),
  ]);
}

function drawDifferences() {
  const place = $("differences"), chosen = [...state.chosen];
  if (chosen.length < 2) {
    place.replaceChildren(make("p", null, "Choose two runs or more.", "empty"));
    return;
  }
  const table = make("table"), head = make("tr", make("thead", table)), body = make("tbody", table);
  for (const title of ["key", ...chosen.map((run) => run.name)]) make("th", head, title);
  const keys = [...new Set(chosen.flatMap((run) => Object.keys(run.config)))].sort();
  for (const key of keys) {
    const values = chosen.map((run) => (key in run.config ? run.config[key] : base[key]));
    const texts = values.map((value) => JSON.stringify(value));
    if (texts.every((text) => text === texts[0])) continue;
    const row = make("tr", body);
    for (const text of [key, ...texts]) make("td", row, text);
  }
  place.replaceChildren(body.rows.length ? table : make("p", null, "Nowhere.", "empty"));
}

// What is chosen outlives a reload of a page that is kept current.
const KEPT = ["filter", "curve", "over", "across", "up"];
function keep() {
  const { sort, down } = state, fields = Object.fromEntries(KEPT.map((id) => [id, $(id).value]));
  const chosen = [...state.chosen].map((run) => run.path);
  sessionStorage.setItem("runs", JSON.stringify(
    { sort, down, chosen, fields, columns: [...state.columns], log: $("log").checked }));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem("runs") || "null");
  if (!data.every || !kept) return;
  Object.assign(state, { sort: kept.sort, down: kept.down, columns: new Set(kept.columns) });
  const known = new Map(runs.map((run) => [run.path, run]));
  state.chosen = new Set(kept.chosen.map((path) => known.get(path)).filter(Boolean));
  for (const id of KEPT) $(id).value = kept.fields[id];
  $("log").checked = kept.log;
  state.words = words();
}

const words = () => $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);

function fill(select, names, wanted) {
  for (const name of names) {
    const option = make("option", select, metrics[name].label);
    option.value = name;
  }
  const first = wanted.find((name) => names.includes(name));
  if (first) select.value = first;
}

const names = Object.keys(metrics), curved = new Set(runs.flatMap((r) => Object.keys(r.curves.of)));
fill($("curve"), names.filter((name) => curved.has(name)),
  ["val_acc1", ...names.filter((name) => name.startsWith("train_"))]);
fill($("across"), names, ["val_l0_sparsity_metric", "val_proj_effective_rank"]);
fill($("up"), names, ["val_acc1", "val_map"]);
restore();
for (const name of names) {
  const label = make("label", $("columns")), box = make("input", label);
  box.type = "checkbox";
  box.checked = state.columns.has(name);
  label.append(` ${metrics[name].label}`);
  box.onchange = () => {
    state.columns[box.checked ? "add" : "delete"](name);
    drawHead();
    drawRows();
  };
}
$("filter").oninput = () => {
  state.words = words();
  drawRows();
};
$("none").onclick = () => {
  state.chosen.clear();
  drawRows();
  drawCurves();
  drawDifferences();
};
for (const id of ["curve", "over", "log"]) $(id).onchange = drawCurves;
for (const id of ["across", "up"]) $(id).onchange = () => drawScatter(shownRuns());
for (const run of runs) {
  run.text = [run.path, run.kind, run.data, run.backbone, run.status, run.error, run.changes]
    .join(" ").toLowerCase();
}
if (data.every) {
  window.addEventListener("beforeunload", keep);
  setTimeout(() => location.reload(), 1000 * data.every);
}
$("made").textContent = `${data.root}, ${data.made}`;
drawHead();
drawRows();
drawCurves();
drawDifferences();
