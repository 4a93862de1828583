// Has memory share and confidence of every decision measured, a few at a time; questions come in between.
import { post } from "./source.js";

const TITLE = "Measure memory share and confidence";

export class Trust {
  // `page` has numbers() and analyse().
  constructor(button, page) {
    Object.assign(this, { button, page, running: false });
    button.addEventListener("click", () => (this.running ? (this.running = false) : this.run()));
  }

  show(enabled) {
    this.running = false;
    this.button.textContent = TITLE;
    this.button.hidden = !enabled || !this.page.numbers().decisions;
  }

  async run() {
    const numbers = this.page.numbers();
    this.running = true;
    numbers.told ??= [];
    for (const key of ["memory", "confidence"]) if (!numbers.told.includes(key)) numbers[key] = new Array(numbers.decisions).fill(null);
    let row = Math.max(0, numbers.memory.findIndex((share, i) => share === null && numbers.confidence[i] === null));
    let analysed = performance.now();
    try {
      while (row < numbers.decisions && this.running && this.page.numbers() === numbers) {
        this.button.textContent = `Measuring, ${Math.round((100 * row) / numbers.decisions)} %. Stop`;
        const answer = await (await post("trust", { episode: numbers.index, row })).json();
        let count = 0;
        for (const key of ["memory", "confidence"]) {
          if (!answer[key]) continue;
          if (!numbers.told.includes(key)) numbers.told.push(key);
          answer[key].forEach((one, i) => (numbers[key][row + i] = one));
          count = answer[key].length;
        }
        if (!count) throw new Error("The agent has no memory, and there are no maps.");
        row += count;
        if (performance.now() - analysed > 1000) [analysed] = [performance.now(), this.page.analyse()];
      }
    } catch (error) {
      this.button.textContent = `Not measured: ${error.message}`;
      this.running = false;
      return;
    }
    if (this.page.numbers() !== numbers) return;
    this.page.analyse();
    this.running = false;
    this.button.hidden = row >= numbers.decisions;
    this.button.textContent = TITLE;
  }
}
