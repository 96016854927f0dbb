/* How an answer looks. */

import { action, make, name } from "./server.js";

const WORDS = 3; // keywords shown under a token; all of them are in the row's details

/** One line on a whole answer. */
export function summary(answer, wanted, elapsed) {
  const { queue, compute, total } = answer.timing_ms;
  const time = `${elapsed.toFixed(0)} ms here, ${total.toFixed(0)} ms in the server: ${queue.toFixed(0)} ms in the queue, ` +
    `${compute.toFixed(0)} ms computed in a batch of ${answer.batch_size}.`;
  const count = answer.items.length;
  if (count === 0) return `No item is left by the filters. ${time}`;
  const few = count < wanted.k ? ", all that the filters leave" : "";
  const proof = answer.exact ? "proven to be the best" : "not proven to be the best";
  const cut = answer.used < wanted.history.length ? ` The prompt had room for the newest ${answer.used} of the history.` : "";
  return `${count} ${count === 1 ? "item" : "items"}${few}, ${proof}.${cut} ${time}`;
}

export function answerRow(item, index, choose) {
  const own = item.path.reduce((sum, step) => sum + step.score, 0);
  const fused = item.path.length === 0 || Math.abs(own - item.score) > 1e-3; // a fusion's scores are no probabilities
  const score = make("span", { className: "score" },
    make("span", { className: "unseen", textContent: fused ? "score " : "probability of its semantic ID " }),
    fused ? item.score.toFixed(3) : percent(item.score));
  const title = make("span", { className: "title" });
  title.append(make("span", { className: "clamp", title: item.title }, name(item.title)), facts(item));
  const row = make("li", {}, make("span", { className: "rank", textContent: index + 1 }), picture(item) ?? "", title, score);
  if (item.path.length > 0) row.append(path(item), details(item));
  const again = action("+ History", `Add ${item.title} to the history`, () => choose(item));
  again.classList.add("again");
  row.append(again);
  return row;
}

/** The id, and the brand and the categories where the catalogue has them. */
export function facts(item) {
  const line = make("small", {}, make("bdi", { className: "id", textContent: item.id }));
  for (const text of [item.brand, item.categories]) {
    if (text) line.append(" · ", name(text));
  }
  return line;
}

/** The picture, where the catalogue has an address for it; one that does not load goes. */
function picture(item) {
  if (!item.image) return null;
  const image = make("img", { className: "picture", alt: "", loading: "lazy", referrerPolicy: "no-referrer" });
  image.addEventListener("error", () => image.remove());
  image.src = item.image;
  return image;
}

function path(item) {
  const steps = item.path.map((step) => {
    const node = make("li", { className: "step" }, make("b", { textContent: step.token }));
    if (step.keywords?.length) {
      node.append(make("span", { className: "words" }, name(step.keywords.slice(0, WORDS).join(", "))));
    }
    node.append(make("span", { className: "share", textContent: percent(step.score) }));
    node.style.setProperty("--share", Math.exp(Math.min(step.score, 0)));
    return node;
  });
  const list = make("ol", { className: "path" }, ...steps);
  list.setAttribute("aria-label", "its semantic ID, token by token");
  return list;
}

function details(item) {
  const list = make("dl");
  for (const step of item.path) {
    const chance = `${percent(step.score)} (log-probability ${step.score.toFixed(3)})`;
    list.append(make("dt", { textContent: step.token }), make("dd", { className: "chance", textContent: chance }));
    if (step.keywords?.length) list.append(make("dd", {}, name(step.keywords.join(", "))));
    if (step.description) list.append(make("dd", { className: "description" }, name(step.description)));
  }
  const told = item.path.some((step) => step.keywords?.length || step.description);
  const heading = make("summary", { textContent: told ? "What the tokens mean" : "Scores" });
  return make("details", {}, heading, list, make("p", { textContent: `score ${item.score.toFixed(3)}` }));
}

function percent(score) {
  const value = 100 * Math.exp(score);
  return value >= 0.01 ? `${value.toFixed(value < 1 ? 3 : 1)} %` : `${value.toExponential(1)} %`;
}
