// The page: shows one episode at a time, and ties pictures, curves, bookmarks and questions to one decision.
import { EpisodeSource, exported, readJson } from "./source.js";
import { advantages, entropyOf, jumps, largest, returnsSoFar, short, softmax } from "./numbers.js";
import { PALETTES, Picture } from "./picture.js";
import { Curve, LINE_COLOURS } from "./curves.js";
import { WhatIf } from "./what_if.js";

const at = (name) => document.getElementById(name);
const COLUMNS = [["index", "No."], ["environment", "Environment"], ["decisions", "Decisions"], ["return", "Return"], ["seed", "Seed"], ["complete", "Complete"]];
const view = { row: 0, source: null, numbers: null, pictures: [], curves: [], bookmarks: [], live: null, playing: false, shown: -1, frames: 0 };
let store = null;
let whatIf = null;
let order = { column: "index", down: false };

function failed(error) {
  at("error").hidden = false;
  at("error").textContent = `This cannot be shown: ${error.message}`;
}

async function begin() {
  store = await readJson("store");
  whatIf = new WhatIf(store, () => ({ episode: view.numbers.index, row: view.row, discrete: view.numbers.discrete }), select, showLive);
  at("pictures").classList.toggle("asking", store.agent);
  listen();
  showList();
  if (!store.episodes.length) at("about").textContent = "The store has no episodes yet.";
  else await open(store.episodes[0].index);
}

async function open(index) {
  view.source?.close();
  const numbers = await readJson(`episode-${index}`);
  const source = new EpisodeSource(numbers);
  Object.assign(view, { numbers, source, row: 0, live: null, bookmarks: [], playing: false });
  at("play").textContent = "Play";
  at("scrubber").max = Math.max(0, numbers.decisions - 1);
  fillLayers();
  makePictures();
  analyse();
  showList();
  about();
  await go(0);
  document.body.dataset.ready = index;
  if (numbers.picture) source.readAll(view.row, (part) => view.source === source && about(part)).then(redraw, failed);
}

function about(part = 1) {
  const { numbers } = view;
  const reading = part < 1 && !exported ? ` Reading ${Math.round(100 * part)} %.` : "";
  const seed = numbers.seed === null ? "" : `, seed ${numbers.seed}`;
  at("about").textContent = `${numbers.environment}${seed}: ${numbers.decisions} decisions, return ${short(numbers.return)}.${reading}`;
}

function fillLayers() {
  const options = view.numbers.layers.map((layer, i) => new Option(`${layer.name} (${layer.fingerprint.slice(0, 8)})`, i));
  at("layer").replaceChildren(...options, new Option("none", ""));
  at("compare").replaceChildren(new Option("nothing", ""), ...options.map((option) => option.cloneNode(true)));
  at("layer").selectedIndex = 0;
  at("compare-label").hidden = at("mode-label").hidden = options.length < 2;
}

function makePictures() {
  const parent = at("pictures");
  parent.replaceChildren();
  const { picture } = view.numbers;
  if (!picture) {
    parent.textContent = "The network input is no image: only the curves are shown.";
    view.pictures = [];
    return;
  }
  const beside = at("compare").value !== "" && at("mode").value === "beside" ? 2 : 1;
  view.pictures = [...Array(beside).keys()].map(() => {
    const figure = parent.appendChild(document.createElement("figure"));
    const canvas = figure.appendChild(document.createElement("canvas"));
    canvas.setAttribute("role", "img");
    const one = new Picture(canvas, picture);
    one.caption = figure.appendChild(document.createElement("figcaption"));
    whatIf.watch(one);
    return one;
  });
}

function analyse() {
  const { numbers } = view;
  const { advantage, toGo } = advantages(numbers.rewards, numbers.values, numbers.complete, Number(at("gamma").value), Number(at("lambda").value));
  at("curves").replaceChildren();
  const line = (name, data, i = 0) => ({ name, numbers: data, colour: LINE_COLOURS[i % LINE_COLOURS.length] });
  const charts = [["Value", [...(numbers.values ? [line("value", numbers.values)] : []), line("return to go", toGo, 1)]],
    ["Reward", [line("reward", numbers.rewards), line("return", returnsSoFar(numbers.rewards), 1)]]];
  if (numbers.discrete && numbers.logits.length) {
    const probabilities = numbers.logits.map(softmax);
    charts.push(["Action probabilities", probabilities[0].map((_, action) => line(`action ${action}`, probabilities.map((row) => row[action]), action))]);
    charts.push(["Entropy", [line("entropy", probabilities.map(entropyOf), 2)]]);
  }
  if (advantage) charts.push(["Advantage", [line("advantage", advantage, 3)]]);
  view.curves = numbers.decisions ? charts.map(([title, lines]) => new Curve(at("curves"), title, lines, go)) : [];
  const own = view.bookmarks.filter((mark) => mark.kind === "yours");
  const found = [];
  if (advantage) for (const row of largest(advantage.map(Math.abs), 5)) found.push({ row, kind: "advantage" });
  if (numbers.values) for (const row of largest(jumps(numbers.values), 5)) found.push({ row, kind: "surprise" });
  view.bookmarks = [...found, ...own];
  showBookmarks();
}

function showBookmarks() {
  view.bookmarks.sort((a, b) => a.row - b.row);
  at("bookmarks").replaceChildren(...view.bookmarks.map((mark) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${mark.row} ${mark.kind}`;
    button.addEventListener("click", () => go(mark.row));
    mark.button = button;
    return Object.assign(document.createElement("li"), {}).appendChild(button).parentNode;
  }));
}

function showList() {
  at("columns").replaceChildren(...COLUMNS.map(([key, title]) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.setAttribute("aria-sort", order.column === key ? (order.down ? "descending" : "ascending") : "none");
    const button = cell.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = `${title}${order.column === key ? (order.down ? " ↓" : " ↑") : ""}`;
    button.addEventListener("click", () => {
      order = { column: key, down: order.column === key && !order.down };
      showList();
      at("columns").children[COLUMNS.findIndex(([name]) => name === key)].firstChild.focus();
    });
    return cell;
  }));
  const { column, down } = order;
  const rows = [...store.episodes].sort((a, b) => (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : a.index - b.index));
  if (down) rows.reverse();
  at("episodes").replaceChildren(...rows.map(listed));
}

function listed(episode) {
  const row = document.createElement("tr");
  if (view.numbers?.index === episode.index) row.setAttribute("aria-current", "true");
  for (const [key] of COLUMNS) {
    const cell = row.appendChild(document.createElement("td"));
    const content = episode[key];
    const text = content === null ? "–" : typeof content === "boolean" ? (content ? "yes" : "no") : typeof content === "number" ? short(content) : content;
    if (typeof content === "number") cell.className = "number";
    if (key === "index") {
      const button = cell.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = text;
      button.setAttribute("aria-label", `Show episode ${text}`);
      button.addEventListener("click", () => open(episode.index).catch(failed));
    } else cell.textContent = text;
  }
  return row;
}

function go(row) {
  const { numbers } = view;
  const last = numbers.decisions - 1;
  if (last < 0) return Promise.resolve();
  view.row = Math.min(last, Math.max(0, Math.round(row)));
  if (view.live && view.live.row !== view.row) view.live = null;
  at("scrubber").value = view.row;
  at("scrubber").setAttribute("aria-valuetext", `decision ${view.row} of ${numbers.decisions}`);
  showNumbers();
  return redraw();
}

function showNumbers() {
  const { numbers, row } = view;
  at("step").textContent = numbers.steps[row];
  const marks = view.bookmarks.map((mark) => mark.row);
  for (const curve of view.curves) curve.show(row, marks);
  for (const mark of view.bookmarks) mark.button.setAttribute("aria-current", String(mark.row === row));
  const parts = [`action ${numbers.actions[row]}`];
  if (numbers.discrete) parts.push(softmax(numbers.logits[row]).map((p, i) => `p${i} ${p.toFixed(3)}`).join("  "));
  if (numbers.values) parts.push(`value ${short(numbers.values[row])}`);
  parts.push(`reward ${short(numbers.rewards[row])}`);
  at("facts").textContent = parts.join(" · ");
}

// Draws the present decision; of several calls while one waits for its data, the last is drawn.
let waiting = null;
function redraw() {
  if (!view.pictures.length) return Promise.resolve();
  waiting ??= Promise.resolve().then(drawLatest).catch(failed).finally(() => (waiting = null));
  return waiting;
}

async function drawLatest() {
  let source;
  let row;
  do {
    ({ source, row } = view);
    const layers = [at("layer").value, at("compare").value].map((value) => (value === "" ? null : Number(value)));
    const [image, ...blocks] = await Promise.all([source.frame(row), ...layers.map((layer) => (layer === null ? null : source.mapsOf(layer, row)))]);
    if (source !== view.source) continue;
    draw(image, row, blocks, layers);
  } while (source !== view.source || row !== view.row);
}

function draw(image, row, blocks, layers) {
  const look = { opacity: Number(at("opacity").value) / 100, scale: at("scale").value };
  const within = row % view.numbers.block;
  const heads = (block, layer, i) => ["actor", "critic"].map((head, h) => (at(head).checked && block ? mapOf(block, i, h, view.source.peaks.get(layer)) : null));
  const first = view.live ? heads(view.live.maps, null, 0) : heads(blocks[0], layers[0], within);
  const second = heads(blocks[1], layers[1], within);
  const [picture, beside] = view.pictures;
  if (layers[1] !== null && !beside) picture.drawDifference(image, [[first[0], second[0]], [first[1], second[1]]], look);
  else picture.draw(image, first, look);
  if (beside) beside.draw(image, second, look);
  captions(layers, first);
  view.shown = row;
  view.frames += 1;
  document.body.dataset.shown = row;
  document.body.dataset.frames = view.frames;
}

function mapOf(block, row, head, peaks) {
  if (!block.has(row, head)) return null;
  const [low, high] = block.range(row, head);
  const { height, width } = block;
  return { levels: block.levels(row, head), low, high, peak: peaks?.[head] ?? high, colour: PALETTES[at("palette").value][head], height, width };
}

function captions(layers, maps) {
  const name = (layer) => (layer === null ? "" : view.numbers.layers[layer].name);
  const [picture, beside] = view.pictures;
  let text = view.live ? `${view.live.method} (just computed)` : name(layers[0]);
  if (layers[1] !== null && !beside) text = `${text} minus ${name(layers[1])}: green more, purple less`;
  else if (!maps.some(Boolean) && layers[0] !== null && (at("actor").checked || at("critic").checked)) text = `${text}: no map of this decision`;
  picture.caption.textContent = text;
  if (beside) beside.caption.textContent = name(layers[1]);
  for (const one of view.pictures) {
    one.canvas.setAttribute("aria-label", `Frame of decision ${view.row}${one.caption.textContent ? `, maps of ${one.caption.textContent}` : ""}`);
  }
}

function select(region) {
  for (const picture of view.pictures) picture.selection = region;
  redraw();
}

function showLive(maps, method, row) {
  if (row !== view.row) return;
  view.live = { maps, method, row };
  redraw();
}

function play(now = !view.playing) {
  view.playing = now;
  at("play").textContent = now ? "Pause" : "Play";
  if (!now) return;
  const source = view.source;
  let [began, first] = [performance.now(), view.row === view.numbers.decisions - 1 ? 0 : view.row];
  let speed = at("speed").value;
  const tick = (time) => {
    if (!view.playing || view.source !== source) return;
    if (speed !== at("speed").value || view.jumped) [began, first, speed, view.jumped] = [time, view.row, at("speed").value, false];
    const row = first + Math.floor(((time - began) * Number(speed)) / 1000);
    if (row !== view.row) go(Math.max(row, 0));
    if (row >= view.numbers.decisions - 1) play(false);
    else requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

function move(row) {
  view.jumped = true;
  go(row);
}

function nextBookmark(direction) {
  const rows = view.bookmarks.map((mark) => mark.row).filter((row) => (direction > 0 ? row > view.row : row < view.row));
  if (rows.length) move(direction > 0 ? Math.min(...rows) : Math.max(...rows));
}

function bookmark() {
  const there = view.bookmarks.findIndex((mark) => mark.row === view.row && mark.kind === "yours");
  if (there >= 0) view.bookmarks.splice(there, 1);
  else view.bookmarks.push({ row: view.row, kind: "yours" });
  showBookmarks();
  showNumbers();
}

function faster(direction) {
  const speed = at("speed");
  speed.selectedIndex = Math.min(speed.options.length - 1, Math.max(0, speed.selectedIndex + direction));
}

function onKey(event) {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input[type=number], input[type=range]:not(#scrubber)")) return;
  if (event.key === " " && target.matches("button, summary, input")) return;
  const far = event.shiftKey ? 10 : 1;
  const actions = {
    ArrowLeft: () => move(view.row - far), ArrowRight: () => move(view.row + far), Home: () => move(0), End: () => move(view.numbers.decisions - 1),
    " ": () => play(), "+": () => faster(1), "-": () => faster(-1), a: () => at("actor").click(), c: () => at("critic").click(),
    b: bookmark, "[": () => nextBookmark(-1), "]": () => nextBookmark(1),
  };
  if (!(event.key in actions) || !view.numbers) return;
  event.preventDefault();
  actions[event.key]();
}

function swatches() {
  for (const [i, head] of ["actor", "critic"].entries()) document.querySelector(`.swatch.${head}`).style.background = `rgb(${PALETTES[at("palette").value][i].join(",")})`;
}

function listen() {
  document.addEventListener("keydown", onKey);
  at("play").addEventListener("click", () => play());
  at("previous").addEventListener("click", () => move(view.row - 1));
  at("next").addEventListener("click", () => move(view.row + 1));
  at("scrubber").addEventListener("input", () => move(Number(at("scrubber").value)));
  at("bookmark").addEventListener("click", bookmark);
  for (const name of ["actor", "critic", "opacity", "scale", "palette", "layer"]) at(name).addEventListener("input", redraw);
  at("layer").addEventListener("input", () => (view.live = null));
  at("palette").addEventListener("input", swatches);
  swatches();
  for (const name of ["compare", "mode"]) at(name).addEventListener("input", () => (makePictures(), redraw()));
  for (const name of ["gamma", "lambda"]) at(name).addEventListener("change", () => (analyse(), showNumbers()));
  const again = () => (view.curves.forEach((curve) => curve.resize()), view.numbers && showNumbers());
  window.addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
}

begin().catch(failed);
