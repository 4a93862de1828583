// The page: shows one episode at a time, and ties pictures, curves, bookmarks and questions to one decision.
import { EpisodeSource, exported, readJson } from "./source.js";
import { short, softmax } from "./numbers.js";
import { PALETTES, Picture } from "./picture.js";
import { MOST_LINES, actionName, actionTaken, chartsOf, found, has, showCharts } from "./charts.js";
import { EpisodeList } from "./episode_list.js";
import { WhatIf } from "./what_if.js";
import { Live } from "./live.js";
import { Trust } from "./trust.js";

const at = (name) => document.getElementById(name);
const BOOKMARKS_APART = 2000; // milliseconds between two searches for bookmarks while a recording runs
const view = { row: 0, source: null, numbers: null, pictures: [], curves: [], bookmarks: [], anew: null, playing: false, frames: 0 };
const analysed = { at: 0, took: 0, marked: 0 };
let store = null;
let whatIf = null;
let list = null;
let live = null;
let trust = null;

function failed(error) {
  at("error").hidden = false;
  at("error").textContent = `This cannot be shown: ${error.message}`;
}

async function begin() {
  store = await readJson("store");
  whatIf = new WhatIf(store, () => ({ numbers: view.numbers, row: view.row }), select, showAnew);
  trust = new Trust(at("measure"), { numbers: () => view.numbers, analyse: () => (analyse(), showNumbers()) });
  list = new EpisodeList(at("columns"), at("episodes"), Boolean(store.live), (index) => chosen(index).catch(failed));
  at("pictures").classList.toggle("asking", store.agent);
  listen();
  list.show(store.episodes, null);
  if (store.live) return followLive();
  if (!store.episodes.length) at("about").textContent = "The store has no episodes yet.";
  else await open(store.episodes[0].index);
}

async function chosen(index) {
  live?.follow(false);
  await open(index);
}

async function open(index) {
  const numbers = await readJson(`episode-${index}`);
  view.source?.close();
  analysed.marked = 0;
  const source = new EpisodeSource(numbers, Boolean(live));
  Object.assign(view, { numbers, source, row: 0, anew: null, bookmarks: [], playing: false });
  if (!live) at("play").textContent = "Play";
  at("scrubber").max = Math.max(0, numbers.decisions - 1);
  fillLayers();
  makePictures();
  analyse();
  list.show(store.episodes, index);
  about();
  trust.show(store.agent && !has(numbers, "confidence"));
  await go(live?.following ? numbers.show : 0);
  document.body.dataset.ready = index;
  delete document.body.dataset.read;
  if (numbers.picture && !live) readAll(source).catch(failed);
}

// Reads the rest of the episode in the background.
async function readAll(source) {
  about(0);
  await source.readAll(view.row, (part) => view.source === source && about(part));
  if (view.source !== source) return;
  document.body.dataset.read = view.numbers.index;
  await redraw();
}

function about(part = 1) {
  const { numbers } = view;
  const reading = part < 1 && !exported ? ` Reading ${Math.round(100 * part)} %.` : "";
  const seed = numbers.seed === null ? "" : `, seed ${numbers.seed}`;
  const which = live ? `, ${numbers.name}` : "";
  at("about").textContent = `${numbers.environment}${which}${seed}: ${numbers.decisions} decisions, return ${short(numbers.return)}.${reading}`;
}

function followLive() {
  const { environments, num_envs: count, mode, method } = store.live;
  at("about").setAttribute("aria-live", "off");
  at("live").hidden = false;
  at("speed-label").hidden = true;
  at("environment").replaceChildren(...environments.map((index) => new Option(`${index} of ${count}`, index)));
  at("environment-label").hidden = count === 1;
  at("environment").addEventListener("input", () => (live.another(), live.follow(true)));
  const note = { capture: "The recorder keeps decisions and makes no maps.", deferred: "Maps are made in blocks: the picture is a block behind." }[mode];
  const vector = count > 1 ? ` Environments ${environments.join(", ")} of ${count} are recorded; one is shown at a time.` : "";
  at("live-note").textContent = `${note ?? `Maps by ${method}, as the recorder makes them.`}${vector}`;
  live = new Live({
    numbers: () => view.numbers,
    environment: () => at("environment").value,
    open,
    append,
    list: (episodes) => list.show((store.episodes = episodes), view.numbers?.index ?? null),
    jump: go,
    say: (text, following) => {
      at("live-state").textContent = text;
      at("play").hidden = following === null;
      at("play").textContent = following ? "Pause" : "Follow";
    },
  });
  if (!store.episodes.length) at("about").textContent = "Waiting for the first decision.";
  return live.run();
}

// More decisions of the episode that is shown.
function append(more) {
  const { numbers } = view;
  for (const key of ["steps", "rewards", "logits", "values", "actions", "memory", "confidence", "objects"]) if (numbers[key] && more[key]) numbers[key].push(...more[key]);
  numbers.told = more.told;
  numbers.discrete &&= more.actions.every(Number.isInteger);
  numbers.decisions = numbers.steps.length;
  const listed = store.episodes.find((episode) => episode.index === numbers.index);
  for (const one of [numbers, listed]) if (one) Object.assign(one, { return: more.return, complete: more.complete, decisions: numbers.decisions });
  at("scrubber").max = Math.max(0, numbers.decisions - 1);
  about();
  if (performance.now() - analysed.at > 6 * analysed.took) analyse();
}

function fillLayers() {
  const options = view.numbers.layers.map((layer, i) => new Option(layer.fingerprint ? `${layer.name} (${layer.fingerprint.slice(0, 8)})` : layer.name, i));
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
    parent.textContent = "There is no picture to show: the network input is no image, and frames were not kept.";
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
  const began = performance.now();
  const { numbers } = view;
  const { charts, advantage } = chartsOf(numbers, Number(at("gamma").value), Number(at("lambda").value));
  view.curves = numbers.decisions ? showCharts(at("curves"), view.curves, charts, move) : showCharts(at("curves"), [], [], move);
  Object.assign(analysed, { at: performance.now(), took: performance.now() - began });
  if (live?.following && numbers.decisions > 1 && performance.now() - analysed.marked < BOOKMARKS_APART) return;
  analysed.marked = performance.now();
  view.bookmarks = [...found(numbers, advantage), ...view.bookmarks.filter((mark) => mark.kind === "yours")];
  showBookmarks();
  if (live) list.show(store.episodes, numbers.index);
}

function showBookmarks() {
  const focused = at("bookmarks").contains(document.activeElement) ? document.activeElement.textContent : null;
  view.bookmarks.sort((a, b) => a.row - b.row);
  at("bookmarks").replaceChildren(...view.bookmarks.map((mark) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${mark.row} ${mark.kind}`;
    button.addEventListener("click", () => move(mark.row));
    mark.button = button;
    return document.createElement("li").appendChild(button).parentNode;
  }));
  if (focused !== null) view.bookmarks.find((mark) => mark.button.textContent === focused)?.button.focus();
}

function go(row) {
  const { numbers } = view;
  const last = numbers.decisions - 1;
  if (last < 0) return Promise.resolve();
  view.row = Math.min(last, Math.max(0, Math.round(row)));
  if (view.anew && view.anew.row !== view.row) view.anew = null;
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
  const parts = [actionTaken(numbers, row)];
  if (numbers.discrete && numbers.logits[row].length <= MOST_LINES) {
    parts.push(softmax(numbers.logits[row]).map((p, i) => `${actionName(numbers, i)} ${p.toFixed(3)}`).join(", "));
  }
  if (numbers.values) parts.push(`value ${short(numbers.values[row])}`);
  parts.push(`reward ${short(numbers.rewards[row])}`);
  if (has(numbers, "memory")) parts.push(`memory share ${short(numbers.memory[row])}`);
  if (has(numbers, "confidence")) parts.push(`confidence ${short(numbers.confidence[row])}`);
  if (numbers.objects?.[row]) parts.push(numbers.objects[row]);
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
    const layers = [at("layer").value, at("compare").value].map((value) => (value === "" || !view.numbers.picture.input ? null : Number(value)));
    const [image, ...blocks] = await Promise.all([source.frame(row), ...layers.map((layer) => (layer === null ? null : source.mapsOf(layer, row)))]);
    if (source !== view.source) continue;
    draw(image, row, blocks, layers);
  } while (source !== view.source || row !== view.row);
}

function draw(image, row, blocks, layers) {
  const look = { opacity: Number(at("opacity").value) / 100, scale: at("scale").value };
  const within = row % view.numbers.block;
  const heads = (block, layer, i) => ["actor", "critic"].map((head, h) => (at(head).checked && block ? mapOf(block, i, h, view.source.peaks.get(layer)) : null));
  const first = view.anew ? heads(view.anew.maps, null, 0) : heads(blocks[0], layers[0], within);
  const second = heads(blocks[1], layers[1], within);
  const [picture, beside] = view.pictures;
  if (layers[1] !== null && !beside) picture.drawDifference(image, [[first[0], second[0]], [first[1], second[1]]], look);
  else picture.draw(image, first, look);
  if (beside) beside.draw(image, second, look);
  captions(layers, first, image);
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

function captions(layers, maps, image) {
  const name = (layer) => (layer === null ? "" : view.numbers.layers[layer].name);
  const [picture, beside] = view.pictures;
  let text = view.anew ? `${view.anew.method} (just computed)` : name(layers[0]);
  if (layers[1] !== null && !beside) text = `${text} minus ${name(layers[1])}: green more, purple less`;
  else if (!image) text = "no picture was kept of this decision";
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

function showAnew(maps, method, row) {
  if (row !== view.row) return;
  view.anew = { maps, method, row };
  redraw();
}

function play(now = !view.playing) {
  if (live) return live.follow();
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
  live?.follow(false);
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
  at("layer").addEventListener("input", () => (view.anew = null));
  at("palette").addEventListener("input", swatches);
  swatches();
  for (const name of ["compare", "mode"]) at(name).addEventListener("input", () => (makePictures(), redraw()));
  for (const name of ["gamma", "lambda"]) at(name).addEventListener("change", () => (analyse(), showNumbers()));
  const again = () => (view.curves.forEach((curve) => curve.resize()), view.numbers && showNumbers());
  window.addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
}

begin().catch(failed);
