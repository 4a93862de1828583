// Line charts over an episode, with a cursor at the decision that is shown.
import { short } from "./numbers.js";

export const LINE_COLOURS = ["--actor", "--critic", "--third", "--dim", "--accent", "--bad"];
const LEFT = 56;

export class Curve {
  // `lines` is a list of {name, numbers, colour}; `jump(row)` is called for a click.
  constructor(parent, title, lines, jump, { range = null, stacked = false } = {}) {
    Object.assign(this, { fixed: range, stacked });
    this.title = title;
    this.lines = lines;
    this.count = lines[0].numbers.length;
    this.said = [];
    this.figure = parent.appendChild(document.createElement("figure"));
    this.caption = this.figure.appendChild(document.createElement("figcaption"));
    this.canvas = this.figure.appendChild(document.createElement("canvas"));
    this.canvas.setAttribute("role", "img");
    this.still = document.createElement("canvas");
    this.texts = lines.map((line) => {
      const label = this.caption.appendChild(document.createElement("span"));
      label.style.color = `var(${line.colour})`;
      return label;
    });
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      jump(this.rowAt(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) jump(this.rowAt(event));
    });
    this.resize();
  }

  // The same lines with other numbers.
  update(lines) {
    this.lines = lines;
    this.count = lines[0].numbers.length;
    this.range();
    this.drawStill();
  }

  rowAt(event) {
    const shown = this.canvas.getBoundingClientRect();
    const place = (event.clientX - shown.left - LEFT) / Math.max(1, shown.width - LEFT - 4);
    return Math.round(Math.min(1, Math.max(0, place)) * (this.count - 1));
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.max(1, this.canvas.clientWidth), Math.max(1, this.canvas.clientHeight)];
    for (const canvas of [this.canvas, this.still]) Object.assign(canvas, { width: width * ratio, height: height * ratio });
    this.size = [width, height];
    this.ratio = ratio;
    this.range();
    this.drawStill();
  }

  range() {
    if (this.fixed) {
      [this.low, this.high] = this.fixed;
      return;
    }
    let [low, high] = [Infinity, -Infinity];
    for (const { numbers } of this.lines) {
      for (const number of numbers) {
        if (number === null || !Number.isFinite(number)) continue;
        if (number < low) low = number;
        if (number > high) high = number;
      }
    }
    if (low > high) [low, high] = [0, 1];
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    [this.low, this.high] = [low, high];
  }

  x(row) {
    return LEFT + (this.count > 1 ? row / (this.count - 1) : 0) * (this.size[0] - LEFT - 4);
  }

  y(number) {
    return 5 + (1 - (number - this.low) / (this.high - this.low)) * (this.size[1] - 10);
  }

  drawStill() {
    const context = this.still.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    [this.dim, this.cursor] = ["--dim", "--cursor"].map((name) => style.getPropertyValue(name));
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, ...this.size);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = style.getPropertyValue("--dim");
    context.textAlign = "right";
    context.fillText(short(Number(this.high.toPrecision(3))), LEFT - 5, 12);
    context.fillText(short(Number(this.low.toPrecision(3))), LEFT - 5, this.size[1] - 3);
    context.strokeStyle = style.getPropertyValue("--line");
    context.strokeRect(LEFT + 0.5, 0.5, this.size[0] - LEFT - 4, this.size[1] - 1);
    if (this.stacked) this.drawStacked(context, style);
    else for (const line of this.lines) this.drawLine(context, line.numbers, style.getPropertyValue(line.colour));
  }

  // Parts of a whole, one above the other; of more numbers than the chart has pixels, means are drawn.
  drawStacked(context, style) {
    const together = Math.max(1, Math.ceil(this.count / this.size[0]));
    const groups = Math.ceil(this.count / together);
    const floor = new Float64Array(groups);
    const [left, right] = [this.x(0), this.x(this.count - 1)];
    const x = (group) => left + (groups > 1 ? group / (groups - 1) : 0) * (right - left);
    context.globalAlpha = 0.8;
    for (const line of this.lines) {
      context.fillStyle = style.getPropertyValue(line.colour);
      context.beginPath();
      for (let group = 0; group < groups; group += 1) context.lineTo(x(group), this.y(floor[group]));
      if (groups === 1) context.lineTo(x(0) + 3, this.y(floor[0]));
      for (let group = 0; group < groups; group += 1) {
        const part = line.numbers.slice(group * together, (group + 1) * together);
        floor[group] += part.reduce((sum, one) => sum + (one ?? 0), 0) / part.length;
      }
      if (groups === 1) context.lineTo(x(0) + 3, this.y(floor[0]));
      for (let group = groups - 1; group >= 0; group -= 1) context.lineTo(x(group), this.y(floor[group]));
      context.fill();
    }
    context.globalAlpha = 1;
  }

  // Of more numbers than the chart has pixels, each pixel's column shows the lowest and the highest.
  drawLine(context, numbers, colour) {
    context.strokeStyle = colour;
    context.lineWidth = 1.3;
    context.beginPath();
    const together = Math.max(1, Math.floor(numbers.length / (2 * this.size[0])));
    let down = false;
    const point = (row) => {
      if (down) context.lineTo(this.x(row), this.y(numbers[row]));
      else context.moveTo(this.x(row), this.y(numbers[row]));
      down = true;
    };
    for (let first = 0; first < numbers.length; first += together) {
      let [low, high] = [-1, -1];
      for (let row = first; row < Math.min(first + together, numbers.length); row += 1) {
        if (numbers[row] === null || !Number.isFinite(numbers[row])) {
          down = false;
          continue;
        }
        if (low < 0 || numbers[row] < numbers[low]) low = row;
        if (high < 0 || numbers[row] > numbers[high]) high = row;
      }
      if (low >= 0) point(Math.min(low, high));
      if (low !== high) point(Math.max(low, high));
    }
    context.stroke();
  }

  show(row, bookmarks) {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.still, 0, 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = this.dim;
    for (const mark of bookmarks) context.fillRect(this.x(mark) - 0.5, this.size[1] - 7, 2, 7);
    context.fillStyle = this.cursor;
    context.fillRect(this.x(row) - 0.5, 0, 1.5, this.size[1]);
    const numbers = this.lines.map((line) => `${line.name} ${short(line.numbers[row])}`);
    numbers.forEach((text, i) => {
      if (this.said[i] !== text) this.texts[i].textContent = text;
    });
    this.said = numbers;
    this.canvas.setAttribute("aria-label", `${this.title} over ${this.count} decisions. At decision ${row}: ${numbers.join(", ")}`);
  }
}
