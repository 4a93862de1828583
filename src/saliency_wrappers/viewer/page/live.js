// Follows a recording that runs: asks the server for news, and shows the newest decision unless it is paused.
import { readJson } from "./source.js";

const APART = 33; // milliseconds between questions, at least

export class Live {
  // `page` has numbers(), environment(), open(index), append(news), list(episodes), jump(row) and say(text, following).
  constructor(page) {
    this.page = page;
    this.following = true;
    this.over = false;
    this.listed = 0;
    this.stamp = 0;
  }

  async run() {
    this.tell();
    for (;;) {
      const numbers = this.page.numbers();
      const [after, rows] = numbers ? [numbers.index + 1, numbers.steps.length] : [0, 0];
      const began = performance.now();
      let news;
      try {
        news = await readJson(`news-${this.page.environment()}-${after}-${rows}-${this.listed}-${this.stamp}`);
        await this.take(news, after - 1, rows);
      } catch (error) {
        return this.end(`The recording has ended, or its process was stopped (${error.message}). The page keeps what it has.`);
      }
      if (news.ended && !(news.episode && rows + news.episode.steps.length < news.episode.decisions)) {
        return this.end("The recording has ended. The page keeps what it has read.");
      }
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, APART - (performance.now() - began))));
    }
  }

  async take(news, index, rows) {
    [this.stamp, this.listed] = [news.stamp, news.listed];
    if (news.error) this.page.say(`The page cannot follow: ${news.error}`, this.following);
    if (news.episodes) this.page.list(news.episodes);
    const numbers = this.page.numbers();
    if (this.following && news.current !== null && news.current !== index) {
      await this.page.open(news.current);
    } else if (news.episode && numbers && numbers.index === index && numbers.steps.length === rows) {
      this.page.append(news.episode);
      if (this.following) this.page.jump(news.episode.show);
    }
  }

  follow(now = !this.following) {
    if (this.over || now === this.following) return;
    this.following = now;
    this.stamp = 0; // answered at once
    this.tell();
  }

  another() {
    this.stamp = this.listed = 0;
  }

  tell() {
    this.page.say(this.following ? "Live: following the recording." : "Paused: the recording goes on.", this.following);
  }

  end(text) {
    this.over = true;
    this.following = false;
    this.page.say(text, null);
  }
}
