// Curves and bookmarks of an episode.
import { advantages, entropyOf, jumps, largest, returnsSoFar, softmax } from "./numbers.js";
import { Curve, LINE_COLOURS } from "./curves.js";

export const MOST_LINES = 24;

// The label of an action, given as the index of its logit.
export function actionName(numbers, index) {
  const names = numbers.action_names;
  const known = names && numbers.logits.length && names.length === numbers.logits[0].length;
  return known ? names[index] : `action ${index + (numbers.first_action ?? 0)}`;
}

// What the environment was given, with its name when it has one.
export function actionTaken(numbers, row) {
  const action = numbers.actions[row];
  if (!numbers.discrete) return `action ${action}`;
  const index = action - (numbers.first_action ?? 0);
  const name = actionName(numbers, index);
  return name === undefined || name === `action ${action}` ? `action ${action}` : `action ${action} ${name}`;
}

// Whether the recorder told memory, confidence or objects of an episode's maps.
export function has(numbers, key) {
  return Boolean(numbers.told?.includes(key));
}

// Every chart as [title, lines, look]; a line is {name, numbers, colour}, a look {range, stacked}; without a range it is that of the numbers.
export function chartsOf(numbers, gamma, lambda) {
  const { advantage, toGo } = advantages(numbers.rewards, numbers.values, numbers.complete, gamma, lambda);
  const line = (name, data, i = 0) => ({ name, numbers: data, colour: LINE_COLOURS[i % LINE_COLOURS.length] });
  const charts = [...(numbers.values ? [["Value", [line("value", numbers.values)]]] : []), ["Reward", [line("reward", numbers.rewards)]],
    ["Return", [line("return", returnsSoFar(numbers.rewards), 1), line("return to go", toGo, 2)]]];
  const unit = [0, 1];
  if (numbers.discrete && numbers.logits.length) {
    const probabilities = numbers.logits.map(softmax);
    charts.push(["Action probabilities", mostProbable(probabilities).map((i) => line(actionName(numbers, i), probabilities.map((row) => row[i]), i)), { range: unit, stacked: true }]);
    charts.push(["Entropy", [line("entropy", probabilities.map(entropyOf), 2)], { range: [0, Math.max(Math.log(probabilities[0].length), 1e-3)] }]);
  }
  if (advantage) charts.push(["Advantage", [line("advantage", advantage, 3)]]);
  const told = [["memory", "memory share", 4], ["confidence", "confidence of the map", 5]];
  const lines = told.filter(([key]) => has(numbers, key)).map(([key, name, i]) => line(name, numbers[key], i));
  if (lines.length) charts.push(["Memory and confidence", lines, { range: unit }]);
  return { charts, advantage };
}

// The actions that have a line: of many, those that are most probable on average.
function mostProbable(probabilities) {
  const actions = [...probabilities[0].keys()];
  if (actions.length <= MOST_LINES) return actions;
  const totals = actions.map((i) => probabilities.reduce((sum, row) => sum + row[i], 0));
  return actions.sort((a, b) => totals[b] - totals[a]).slice(0, MOST_LINES);
}

// The decisions worth a look, found in the numbers.
export function found(numbers, advantage) {
  const marks = [];
  const add = (kind, scores, count = 5) => largest(scores, count).forEach((row) => marks.push({ row, kind }));
  if (advantage) add("advantage", advantage.map(Math.abs));
  if (numbers.values) add("surprise", jumps(numbers.values));
  if (has(numbers, "confidence")) add("least trusted", numbers.confidence.map((one) => (one === null ? 0 : 1 - one)));
  return marks;
}

// Draws charts into `parent`; curves with the same lines as before stay, and get new numbers.
export function showCharts(parent, curves, charts, jump) {
  const names = (lines) => lines.map((line) => line.name).join("\n");
  const same = charts.length > 0 && curves.length === charts.length && charts.every(([title, lines], i) => curves[i].title === title && names(curves[i].lines) === names(lines));
  if (same) {
    charts.forEach(([, lines], i) => curves[i].update(lines));
    return curves;
  }
  parent.replaceChildren();
  return charts.map(([title, lines, look]) => new Curve(parent, title, lines, jump, look));
}
