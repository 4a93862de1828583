// Where the page's data come from: the viewer's server, or the script elements of an exported page.

const KEPT_BLOCKS = 16;
const KEPT_IMAGES = 400;
const KEPT_LIVE = 800;

export const exported = document.getElementById("data-store") !== null;

export async function readJson(name) {
  if (exported) return JSON.parse(document.getElementById(`data-${name}`).textContent);
  return (await answered(await fetch(`data/${name}`))).json();
}

export async function post(name, content) {
  const response = await fetch(name, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
  return answered(response);
}

async function answered(response) {
  if (!response.ok) throw new Error(await response.text());
  return response;
}

async function readBytes(name) {
  if (!exported) return new Uint8Array(await (await answered(await fetch(`data/${name}`))).arrayBuffer());
  const text = atob(document.getElementById(`data-${name}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Maps of a block: {rows, height, width, heads, range(row, head) -> [low, high], levels(row, head) -> Uint8Array}
export async function readMaps(compressed) {
  const bytes = await inflate(compressed);
  const view = new DataView(bytes.buffer);
  const [rows, height, width, heads] = [0, 4, 8, 12].map((at) => view.getUint32(at, true));
  const size = height * width;
  const begin = 16 + rows * heads * 8;
  const done = new Set();
  const levels = (row, head) => {
    const index = row * heads + head;
    const map = bytes.subarray(begin + index * size, begin + (index + 1) * size);
    if (!done.has(index)) {
      for (let i = width; i < size; i += 1) map[i] += map[i - width];
      for (let i = 0; i < size; i += 1) if (i % width) map[i] += map[i - 1];
      done.add(index);
    }
    return map;
  };
  const range = (row, head) => [0, 4].map((at) => view.getFloat32(16 + (row * heads + head) * 8 + at, true));
  const has = (row, head) => head < heads && row < rows && !Number.isNaN(range(row, head)[0]);
  return { rows, height, width, heads, range, levels, has };
}

function remember(cache, key, value, limit, forget) {
  cache.delete(key);
  cache.set(key, value);
  if (cache.size > limit) {
    const [oldest, old] = cache.entries().next().value;
    cache.delete(oldest);
    if (forget) forget(old);
  }
}

// Frames and maps of one episode. Encoded blocks stay in memory once they were read; decoded ones are kept for a while.
export class EpisodeSource {
  // `live`: of a recording that runs, whose decisions may get their maps later, and whose pictures are not all kept.
  constructor(numbers, live = false) {
    this.numbers = numbers;
    this.live = live;
    this.encoded = new Map();
    this.images = new Map();
    this.maps = new Map();
    this.peaks = new Map();
    this.closed = false;
  }

  bytes(name) {
    if (!this.encoded.has(name)) {
      const promise = readBytes(name);
      promise.catch(() => this.encoded.delete(name));
      remember(this.encoded, name, promise, this.live ? KEPT_LIVE : Infinity);
    }
    return this.encoded.get(name);
  }

  // A decision's picture; null when none was kept.
  async frame(row) {
    if (this.images.has(row)) {
      const image = this.images.get(row);
      remember(this.images, row, image, KEPT_IMAGES);
      return image;
    }
    const block = Math.floor(row / this.numbers.block);
    const bytes = await this.bytes(`frames-${this.numbers.index}-${block}`);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const within = row - block * this.numbers.block;
    const count = view.getUint32(0, true);
    if (within >= count) return null;
    const files = 8 + 4 * count;
    const [from, to] = [4 + 4 * within, 8 + 4 * within].map((at) => files + view.getUint32(at, true));
    const type = bytes[from] === 0x89 ? "image/png" : "image/jpeg";
    const image = await createImageBitmap(new Blob([bytes.subarray(from, to)], { type }));
    remember(this.images, row, image, KEPT_IMAGES, (old) => old.close());
    return image;
  }

  mapsOf(layer, row) {
    const block = Math.floor(row / this.numbers.block);
    const key = `maps-${this.numbers.index}-${layer}-${block}`;
    const kept = this.maps.get(key) ?? this.bytes(key).then(readMaps).then((maps) => this.note(layer, maps));
    remember(this.maps, key, kept, KEPT_BLOCKS);
    const forget = () => (this.maps.delete(key), this.encoded.delete(key));
    kept.then((maps) => this.live && !maps.has(0, 0) && forget(), forget);
    return kept;
  }

  note(layer, maps) {
    const peaks = this.peaks.get(layer) ?? [0, 0];
    for (let row = 0; row < maps.rows; row += 1) {
      for (let head = 0; head < maps.heads; head += 1) if (maps.has(row, head)) peaks[head] = Math.max(peaks[head], maps.range(row, head)[1]);
    }
    this.peaks.set(layer, peaks);
    return maps;
  }

  // Reads every block, nearest to `row` first, so that scrubbing waits for nothing and peaks are those of the whole episode.
  async readAll(row, progress) {
    const { block, decisions, layers, index } = this.numbers;
    const blocks = [...Array(Math.ceil(decisions / block)).keys()];
    const here = Math.floor(row / block);
    blocks.sort((a, b) => Math.abs(a - here) - Math.abs(b - here));
    let read = 0;
    for (const one of blocks) {
      if (this.closed) return;
      if (!exported) await this.bytes(`frames-${index}-${one}`);
      for (let layer = 0; layer < layers.length && !this.closed; layer += 1) {
        const key = `maps-${index}-${layer}-${one}`;
        if (!this.maps.has(key)) this.note(layer, await readMaps(await this.bytes(key)));
      }
      read += 1;
      progress(read / blocks.length);
    }
  }

  close() {
    this.closed = true;
    for (const image of this.images.values()) image.close();
    this.images.clear();
  }
}
