// The table of episodes, sorted by a column.
import { short } from "./numbers.js";

const COLUMNS = [["index", "No."], ["environment", "Environment"], ["decisions", "Decisions"], ["return", "Return"], ["seed", "Seed"], ["complete", "Complete"]];
const LIVE_COLUMNS = [["index", "No."], ["slot", "Env."], ["episode", "Episode"], ["decisions", "Decisions"], ["return", "Return"], ["complete", "Complete"]];

export class EpisodeList {
  constructor(head, body, live, open) {
    Object.assign(this, { head, body, open, all: live ? LIVE_COLUMNS : COLUMNS, column: "index", down: live, episodes: [], current: null });
  }

  show(episodes, current) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.index : undefined;
    Object.assign(this, { episodes, current });
    const one = (key) => new Set(episodes.map((episode) => episode[key])).size < 2;
    this.columns = this.all.filter(([key]) => !(["environment", "slot"].includes(key) && one(key))); // the header says it
    this.head.replaceChildren(...this.columns.map((column) => this.heading(column)));
    const { column, down } = this;
    const rows = [...episodes].sort((a, b) => (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : a.index - b.index));
    if (down) rows.reverse();
    this.body.replaceChildren(...rows.map((episode) => this.row(episode)));
    if (focused !== undefined) this.body.querySelector(`button[data-index="${focused}"]`)?.focus();
  }

  heading([key, title]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.setAttribute("aria-sort", this.column === key ? (this.down ? "descending" : "ascending") : "none");
    const button = cell.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = `${title}${this.column === key ? (this.down ? " ↓" : " ↑") : ""}`;
    button.addEventListener("click", () => {
      [this.down, this.column] = [this.column === key && !this.down, key];
      this.show(this.episodes, this.current);
      this.head.children[this.columns.findIndex(([name]) => name === key)].firstChild.focus();
    });
    return cell;
  }

  row(episode) {
    const row = document.createElement("tr");
    if (this.current === episode.index) row.setAttribute("aria-current", "true");
    for (const [key] of this.columns) {
      const cell = row.appendChild(document.createElement("td"));
      const content = episode[key];
      const text = content === null ? "–" : typeof content === "boolean" ? (content ? "yes" : "no") : typeof content === "number" ? short(content) : content;
      if (typeof content === "number") cell.className = "number";
      if (key !== "index") {
        cell.textContent = text;
        continue;
      }
      const button = cell.appendChild(document.createElement("button"));
      button.type = "button";
      button.dataset.index = episode.index;
      button.textContent = text;
      button.setAttribute("aria-label", `Show episode ${text}`);
      button.addEventListener("click", () => this.open(episode.index));
    }
    return row;
  }
}
