// What the curves are made of, computed from logits, values and rewards.

export function softmax(logits) {
  const known = logits.map((logit) => (logit === null ? -Infinity : logit));
  const peak = Math.max(...known);
  if (!Number.isFinite(peak)) return known.map(() => 0);
  const weights = known.map((logit) => Math.exp(logit - peak));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

export function entropyOf(probabilities) {
  return probabilities.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
}

// Generalised advantage estimates (Schulman et al., 2016) and discounted returns to go.
export function advantages(rewards, values, complete, gamma, lambda) {
  const count = rewards.length;
  const advantage = new Array(count).fill(0);
  const toGo = new Array(count).fill(0);
  const last = values ? values[count - 1] ?? 0 : 0;
  let [gae, after] = [0, complete ? 0 : last];
  for (let i = count - 1; i >= 0; i -= 1) {
    const reward = rewards[i] ?? 0;
    toGo[i] = after = reward + gamma * after;
    if (!values) continue;
    const next = i + 1 < count ? values[i + 1] ?? 0 : complete ? 0 : last;
    gae = reward + gamma * next - (values[i] ?? 0) + gamma * lambda * gae;
    advantage[i] = gae;
  }
  return { advantage: values ? advantage : null, toGo };
}

export function returnsSoFar(rewards) {
  let total = 0;
  return rewards.map((reward) => (total += reward ?? 0));
}

// The rows of the largest numbers, not close to one another.
export function largest(numbers, count) {
  const apart = Math.max(8, numbers.length / 40);
  const order = [...numbers.keys()].sort((a, b) => numbers[b] - numbers[a]);
  const chosen = [];
  for (const row of order) {
    if (chosen.length === count || !(numbers[row] > 0)) break;
    if (chosen.every((other) => Math.abs(other - row) >= apart)) chosen.push(row);
  }
  return chosen;
}

export function jumps(values) {
  return values.map((value, i) => (i === 0 ? 0 : Math.abs((value ?? 0) - (values[i - 1] ?? 0))));
}

export function short(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return "–";
  if (number !== 0 && Math.abs(number) < 1e-4) return number.toExponential(1);
  return Number.isInteger(number) && Math.abs(number) < 1e6 ? String(number) : String(Number(number.toPrecision(4)));
}
