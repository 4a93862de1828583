// Draws a frame with its maps on a canvas.

export const PALETTES = {
  safe: [[86, 180, 233], [230, 120, 0]],
  video: [[0, 0, 255], [255, 0, 0]],
  bright: [[240, 228, 66], [220, 60, 200]],
};
const MORE = [0, 158, 115];
const LESS = [204, 80, 160];

export class Picture {
  constructor(canvas, picture) {
    this.canvas = canvas;
    this.picture = picture;
    const enlarged = Math.max(1, Math.ceil(420 / picture.height));
    canvas.width = picture.width * enlarged;
    canvas.height = picture.height * enlarged;
    this.context = canvas.getContext("2d");
    this.heat = document.createElement("canvas");
    this.selection = null;
  }

  // `maps` is a list of {levels, low, high, peak, colour}; `look` {opacity, scale}.
  draw(image, maps, look) {
    const { context, canvas } = this;
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const shown = maps.filter(Boolean);
    if (shown.length) this.overlay(shown, look);
    if (this.selection && this.picture.input) this.drawSelection();
  }

  // `a` and `b` are maps of the same head: where a looks more, and where b does.
  drawDifference(image, pairs, look) {
    const signed = [];
    for (const [a, b] of pairs) {
      if (!a || !b || a.levels.length !== b.levels.length) continue;
      const [first, second] = [a, b].map((map) => scaledTable(map, look.scale));
      const more = new Uint8Array(a.levels.length);
      const less = new Uint8Array(a.levels.length);
      for (let i = 0; i < more.length; i += 1) {
        const difference = first[a.levels[i]] - second[b.levels[i]];
        if (difference > 0) more[i] = Math.round(255 * difference);
        else less[i] = Math.round(-255 * difference);
      }
      const plain = { low: 0, high: 1, peak: 1, height: a.height, width: a.width };
      signed.push({ ...plain, levels: more, colour: MORE }, { ...plain, levels: less, colour: LESS });
    }
    this.draw(image, signed, look);
  }

  overlay(maps, look) {
    const { height, width } = maps[0];
    if (this.heat.width !== width || this.heat.height !== height) Object.assign(this.heat, { width, height });
    const context = this.heat.getContext("2d");
    const pixels = context.createImageData(width, height);
    const tables = maps.map((map) => scaledTable(map, look.scale));
    for (let i = 0; i < height * width; i += 1) {
      let [red, green, blue, total, clear] = [0, 0, 0, 0, 1];
      for (let m = 0; m < maps.length; m += 1) {
        const heat = tables[m][maps[m].levels[i]];
        const colour = maps[m].colour;
        red += heat * colour[0];
        green += heat * colour[1];
        blue += heat * colour[2];
        total += heat;
        clear *= 1 - heat;
      }
      if (total > 0) {
        pixels.data[4 * i] = red / total;
        pixels.data[4 * i + 1] = green / total;
        pixels.data[4 * i + 2] = blue / total;
        pixels.data[4 * i + 3] = 255 * look.opacity * (1 - clear);
      }
    }
    context.putImageData(pixels, 0, 0);
    const [x, y, across, down] = this.box();
    this.context.imageSmoothingEnabled = true;
    this.context.drawImage(this.heat, x, y, across, down);
  }

  box() {
    const [top, left, bottom, right] = this.picture.box;
    const factor = this.canvas.width / this.picture.width;
    return [left * factor, top * factor, (right - left) * factor, (bottom - top) * factor];
  }

  drawSelection() {
    const [top, left, bottom, right] = this.selection;
    const [x, y, across, down] = this.box();
    const [height, width] = this.picture.input;
    const rectangle = [x + (left / width) * across, y + (top / height) * down, ((right - left) / width) * across, ((bottom - top) / height) * down];
    const { context } = this;
    context.lineWidth = 4;
    context.strokeStyle = "#000";
    context.strokeRect(...rectangle);
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.strokeRect(...rectangle);
  }

  // The pixel of the network input under a pointer, as [row, column] with fractions, clipped to the input.
  inputAt(event) {
    const shown = this.canvas.getBoundingClientRect();
    const factor = Math.min(shown.width / this.canvas.width, shown.height / this.canvas.height);
    const [marginX, marginY] = [(shown.width - this.canvas.width * factor) / 2, (shown.height - this.canvas.height * factor) / 2];
    const [x, y, across, down] = this.box();
    const [height, width] = this.picture.input;
    const column = (((event.clientX - shown.left - marginX) / factor - x) / across) * width;
    const row = (((event.clientY - shown.top - marginY) / factor - y) / down) * height;
    return [Math.min(height, Math.max(0, row)), Math.min(width, Math.max(0, column))];
  }
}

// From a level to [0, 1]: by the map's own range, or from 0 to the episode's peak.
function scaledTable(map, scale) {
  const table = new Float32Array(256);
  for (let level = 0; level < 256; level += 1) {
    const raw = map.low + (level / 255) * (map.high - map.low);
    const heat = scale === "frame" ? (map.high > map.low ? level / 255 : 0) : map.peak > 0 ? raw / map.peak : 0;
    table[level] = Math.min(1, Math.max(0, heat));
  }
  return table;
}
