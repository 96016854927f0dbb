"use strict";

/* Every text of the catalogue reaches the page through textContent, so that none of it is ever read as HTML. */

const at = (id) => document.getElementById(id);
const chosen = { history: [], exclude: [], allow: [] }; // items as the server described them
let ready = false;
let searching = null;
let recommending = null;
let typing = 0;

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer");
  }
  const noJson = { error: `an answer that is no JSON (status ${response.status})` };
  const answer = await response.json().catch(() => noJson);
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/* ---- the server's state ---- */

async function watchHealth() {
  const status = at("status");
  try {
    const health = await ask("health");
    ready = true;
    at("k").max = health.max_k;
    status.dataset.state = "ok";
    status.textContent = `ready: ${health.items.toLocaleString("en")} items, ${health.levels} SID levels`;
  } catch (error) {
    ready = false;
    status.dataset.state = "down";
    status.textContent = error.message;
  }
  showButtons();
  setTimeout(watchHealth, ready ? 15000 : 1000);
}

function showButtons() {
  at("recommend").disabled = !ready || chosen.history.length === 0;
}

/* ---- searching ---- */

async function search() {
  searching?.abort();
  searching = new AbortController();
  const text = at("search").value.trim();
  try {
    const answer = await ask(`items?limit=30&q=${encodeURIComponent(text)}`, { signal: searching.signal });
    at("found").replaceChildren(...answer.items.map(foundRow));
    const few = answer.items.length < 30;
    const count = `${answer.items.length} of ${answer.of.toLocaleString("en")} items`;
    at("found-note").textContent = few ? count : `the first ${count}; type more words to narrow them down`;
  } catch (error) {
    if (error.name === "AbortError") return;
    at("found").replaceChildren();
    at("found-note").textContent = error.message;
  }
}

async function chooseFirst() {
  clearTimeout(typing); // what is shown may belong to a text that was typed over
  await search();
  at("found").querySelector("button")?.click();
}

function foundRow(item) {
  const note = item.blocked ? `${item.id}, blocked` : item.id;
  const add = make("button", { type: "button", className: "name", title: "Add to the history" });
  add.append(item.title, make("small", { textContent: `${note}  ${item.sid.join("")}` }));
  add.addEventListener("click", () => choose("history", item));
  return make("li", {}, add, action("Never", `Never recommend ${item.title}`, () => choose("exclude", item)),
    action("Only", `Recommend only ${item.title} and others so marked`, () => choose("allow", item)));
}

function action(text, label, act) {
  const button = make("button", { type: "button", className: "act", textContent: text, title: label });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

/* ---- what is chosen ---- */

function choose(list, item) {
  const twice = list !== "history" && chosen[list].some((other) => other.id === item.id);
  if (!twice) chosen[list].push(item);
  showChosen();
}

function showChosen() {
  at("history").replaceChildren(...chosen.history.map(historyRow));
  at("history-empty").hidden = chosen.history.length > 0;
  for (const list of ["exclude", "allow"]) {
    at(`${list}-box`).hidden = chosen[list].length === 0;
    at(list).replaceChildren(...chosen[list].map((item, index) => chip(list, item, index)));
  }
  showButtons();
}

function historyRow(item, index) {
  const move = (by) => {
    const [moved] = chosen.history.splice(index, 1);
    const place = Math.min(Math.max(index + by, 0), chosen.history.length);
    chosen.history.splice(place, 0, moved);
    showChosen();
    focusHistory(place, by < 0 ? 0 : 1);
  };
  const remove = () => {
    chosen.history.splice(index, 1);
    showChosen();
    focusHistory(Math.min(index, chosen.history.length - 1), 2);
  };
  const name = make("span", { className: "name" }, item.title, make("small", { textContent: item.id }));
  const row = make("li", {}, make("span", { className: "number", textContent: index + 1 }), name,
    action("↑", `Move ${item.title} up`, () => move(-1)), action("↓", `Move ${item.title} down`, () => move(1)),
    action("✕", `Remove ${item.title}`, remove));
  row.addEventListener("keydown", (event) => {
    if (event.key === "Delete") { event.preventDefault(); remove(); }
  });
  return row;
}

function focusHistory(index, button) {
  const row = at("history").children[index];
  (row ? row.querySelectorAll("button")[button] : at("search")).focus();
}

function chip(list, item, index) {
  const remove = () => { chosen[list].splice(index, 1); showChosen(); };
  const button = make("button", { type: "button", textContent: item.title });
  button.setAttribute("aria-label", `No longer filter by ${item.title}`);
  button.addEventListener("click", remove);
  return make("li", {}, button);
}

/* ---- recommendations ---- */

async function recommend(event) {
  event.preventDefault();
  if (at("recommend").disabled) return;
  recommending?.abort();
  recommending = new AbortController();
  const ids = (list) => chosen[list].map((item) => item.id);
  const wanted = {
    history: ids("history"),
    k: at("k").valueAsNumber,
    exclude_history: at("exclude-history").checked,
    exclude: ids("exclude"),
  };
  if (chosen.allow.length > 0) wanted.allow = ids("allow");
  at("error").hidden = true;
  at("answer").classList.add("busy");
  const started = performance.now();
  try {
    const answer = await ask("recommend", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wanted),
      signal: recommending.signal,
    });
    showAnswer(answer, performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") return;
    showAnswer({ items: [] }, null);
    at("error").textContent = error.message;
    at("error").hidden = false;
  }
  at("answer").classList.remove("busy");
}

function showAnswer(answer, elapsed) {
  at("answer").replaceChildren(...answer.items.map(answerRow));
  at("answer-empty").hidden = answer.items.length > 0 || elapsed !== null;
  if (elapsed === null) { at("timing").textContent = ""; return; }
  const { queue, compute, total } = answer.timing_ms;
  const proof = answer.exact ? "proven to be the best" : "not proven to be the best: a wider search may find others";
  at("timing").textContent = `${answer.items.length} items, ${proof}. ${elapsed.toFixed(0)} ms here, ` +
    `${total.toFixed(0)} ms in the server: ${queue.toFixed(0)} ms in the queue, ${compute.toFixed(0)} ms computed ` +
    `in a batch of ${answer.batch_size}.`;
}

function answerRow(item, index) {
  const title = make("span", { className: "title" }, item.title, make("small", { textContent: item.id }));
  const own = item.path.reduce((sum, step) => sum + step.score, 0);
  const fused = item.path.length === 0 || Math.abs(own - item.score) > 1e-3; // a fusion's scores are no probabilities
  const score = fused
    ? make("span", { className: "score", textContent: item.score.toFixed(3), title: "score" })
    : make("span", { className: "score", textContent: percent(item.score), title: "probability of its SID" },
      make("small", { textContent: `log ${item.score.toFixed(3)}` }));
  const path = make("div", { className: "path" });
  path.setAttribute("aria-label", "SID path");
  item.path.forEach((step, place) => {
    if (place > 0) path.append(make("span", { className: "then", textContent: "→" }));
    path.append(pathStep(step));
  });
  const again = action("+ History", `Add ${item.title} to the history`, () => choose("history", item));
  again.classList.add("again");
  return make("li", {}, make("span", { className: "rank", textContent: index + 1 }), title, score, path, again);
}

function pathStep(step) {
  const node = make("span", { className: "step", title: `log-probability ${step.score.toFixed(4)}` },
    make("b", { textContent: step.token }),
    make("span", { textContent: `${percent(step.score)} ${step.score.toFixed(2)}` }));
  node.style.setProperty("--share", Math.exp(Math.min(step.score, 0)));
  return node;
}

function percent(score) {
  const value = 100 * Math.exp(score);
  return value >= 0.01 ? `${value.toFixed(value < 1 ? 3 : 1)} %` : `${value.toExponential(1)} %`;
}

/* ---- keys ---- */

function moveAmongFound(event) {
  const row = event.target.closest("#found li");
  const rows = [...at("found").children];
  const place = rows.indexOf(row);
  const go = (node) => { event.preventDefault(); (node ?? at("search")).focus(); };
  if (event.key === "ArrowDown") go(rows[Math.min(place + 1, rows.length - 1)]?.firstElementChild);
  else if (event.key === "ArrowUp" && row) go(rows[place - 1]?.firstElementChild);
  else if (event.key === "ArrowRight" && row) go(event.target.nextElementSibling ?? event.target);
  else if (event.key === "ArrowLeft" && row) go(event.target.previousElementSibling ?? event.target);
  else if (event.key === "Escape" && row) go(at("search"));
}

at("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 150); });
at("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") moveAmongFound(event);
  if (event.key === "Enter") chooseFirst();
});
at("found").addEventListener("keydown", moveAmongFound);
document.addEventListener("keydown", (event) => {
  const inField = event.target.matches("input");
  if (event.key === "/" && !inField) { event.preventDefault(); at("search").focus(); at("search").select(); }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) recommend(event);
});
at("settings").addEventListener("submit", recommend);
at("clear").addEventListener("click", () => {
  for (const list of Object.keys(chosen)) chosen[list].length = 0;
  showChosen();
  at("search").focus();
});

watchHealth();
search();
