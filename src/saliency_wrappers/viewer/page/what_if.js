// Questions to the agent: a rectangle of the input is replaced, or another state goes in.
import { post, readMaps } from "./source.js";
import { short, softmax } from "./numbers.js";
import { actionName } from "./charts.js";

const SVG = "http://www.w3.org/2000/svg";
const field = (name) => document.getElementById(name);

export class WhatIf {
  // `shown()` gives {numbers, row}; `select(region)` draws a rectangle; `explained(maps, method)` draws new maps.
  constructor(store, shown, select, explained) {
    this.shown = shown;
    this.select = select;
    this.asked = 0;
    field("no-agent").hidden = store.agent || Boolean(store.live);
    field("busy-agent").hidden = !store.live;
    field("question").hidden = !store.agent;
    this.enabled = store.agent;
    for (const method of store.methods ?? []) field("method").append(new Option(method, method));
    field("question").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    field("clear").addEventListener("click", () => this.clear());
    field("explain").addEventListener("click", () => this.explain(explained));
    field("fill").addEventListener("change", () => (field("other-label").hidden = field("fill").value !== "other"));
    field("state").addEventListener("change", () => (field("state-label").hidden = field("state").value !== "other"));
  }

  watch(picture) {
    if (!this.enabled || !picture.picture.input) return;
    let start = null;
    const region = (event) => {
      const end = picture.inputAt(event);
      const [top, bottom] = [start[0], end[0]].sort((a, b) => a - b);
      const [left, right] = [start[1], end[1]].sort((a, b) => a - b);
      return [Math.floor(top), Math.floor(left), Math.ceil(bottom), Math.ceil(right)];
    };
    picture.canvas.addEventListener("pointerdown", (event) => {
      picture.canvas.setPointerCapture(event.pointerId);
      start = picture.inputAt(event);
    });
    picture.canvas.addEventListener("pointermove", (event) => start && this.fillIn(region(event)));
    picture.canvas.addEventListener("pointerup", (event) => {
      if (!start) return;
      this.fillIn(region(event));
      start = null;
      this.ask();
    });
    picture.canvas.addEventListener("pointercancel", () => (start = null));
  }

  fillIn(region) {
    ["top", "left", "bottom", "right"].forEach((name, i) => (field(name).value = region[i]));
    this.select(region);
  }

  region() {
    return ["top", "left", "bottom", "right"].map((name) => Number(field(name).value));
  }

  clear() {
    this.asked += 1;
    field("answer").replaceChildren();
    this.fillIn([0, 0, 0, 0]);
    this.select(null);
  }

  async ask() {
    const began = performance.now();
    const { numbers, row } = this.shown();
    const episode = numbers.index;
    const state = field("state").value === "other" ? Number(field("state-row").value) : field("state").value;
    const content = { episode, row, region: this.region(), fill: field("fill").value, other: Number(field("other").value), state };
    this.select(content.region);
    this.asked += 1;
    const number = this.asked;
    try {
      const answer = await (await post("ask", content)).json();
      if (number !== this.asked) return;
      this.show(answer, row, numbers, performance.now() - began);
    } catch (error) {
      if (number === this.asked) field("answer").textContent = `The agent could not answer: ${error.message}`;
    }
  }

  show(answer, row, numbers, took) {
    const { discrete } = numbers;
    const [before, after] = discrete ? answer.logits.map(softmax) : answer.logits;
    const title = document.createElement("p");
    title.textContent = `Decision ${row}: ${discrete ? "action probabilities" : "policy output"}, before (grey) and after. ${took.toFixed(0)} ms.`;
    const rows = before.map((number, i) => comparison(discrete ? actionName(numbers, i) : `output ${i}`, number, after[i], discrete));
    if (answer.values) rows.push(comparison("value", ...answer.values, false));
    if (answer.note) rows.push(Object.assign(document.createElement("p"), { textContent: answer.note }));
    const target = field("answer");
    target.replaceChildren(title, ...rows);
    Object.assign(target.dataset, { after: JSON.stringify(after), value: answer.values ? answer.values[1] : "", milliseconds: took.toFixed(1) });
  }

  async explain(explained) {
    const { numbers, row } = this.shown();
    const episode = numbers.index;
    const method = field("method").value;
    try {
      const response = await post("explain", { episode, row, method });
      explained(await readMaps(new Uint8Array(await response.arrayBuffer())), method, row);
    } catch (error) {
      field("answer").textContent = `The agent could not explain: ${error.message}`;
    }
  }
}

function comparison(name, before, after, bars) {
  const line = document.createElement("div");
  line.className = "bar";
  const label = line.appendChild(document.createElement("span"));
  label.textContent = name;
  const drawing = line.appendChild(document.createElementNS(SVG, "svg"));
  drawing.setAttribute("viewBox", "0 0 100 16");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  const shapes = bars ? [["before", 0, before], ["after", 8, after]] : [];
  for (const [kind, y, number] of shapes) {
    const shape = drawing.appendChild(document.createElementNS(SVG, "rect"));
    const sizes = { class: kind, x: 0, y, width: 100 * number, height: 7 };
    for (const [key, size] of Object.entries(sizes)) shape.setAttribute(key, size);
  }
  line.appendChild(document.createElement("span")).textContent = bars
    ? `${before.toFixed(3)} → ${after.toFixed(3)}`
    : `${short(before)} → ${short(after)}`;
  return line;
}
