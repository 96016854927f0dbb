/* The page for recommendations: search, history, filters, answer. */

import { answerRow, facts, summary } from "./answer.js";
import { action, ask, at, make, name, Refused, watchHealth } from "./server.js";
import { fromAddress, toAddress, toCurl } from "./share.js";

const FOUND = 30;
const EXAMPLES = 3; // shown; "Random" takes any
const chosen = { history: [], exclude: [], allow: [] }; // items as the server described them
let ready = false;
let wider = false; // whether the server has wider searches than the usual one
let whenReady = null; // what waits for the server
let taking = false; // the address is being read, and not written meanwhile
let searching = null;
let recommending = null;
let typing = 0;
let found = [];
let examples = [];
let answered = null; // the request that the rows answer

/* ---- searching ---- */

async function search() {
  searching?.abort();
  searching = new AbortController();
  const text = at("search").value.trim();
  try {
    const answer = await ask(`v1/items?limit=${FOUND}&q=${encodeURIComponent(text)}`, { signal: searching.signal });
    found = answer.items;
    at("found-note").textContent = foundNote(text, answer.of);
  } catch (error) {
    if (error.name === "AbortError") return;
    found = [];
    at("found-note").textContent = error.message;
  }
  at("found").replaceChildren(...found.map(foundRow));
  at("only-found").hidden = text === "" || found.length === 0;
}

function foundNote(text, of) {
  if (found.length === 0) return text === "" ? "The catalogue has no items." : `No title or id holds every word of “${text}”.`;
  const count = `${found.length} of ${of.toLocaleString("en")} items`;
  return found.length < FOUND ? count : `the first ${count}; type more words to narrow them down`;
}

async function chooseFirst() {
  clearTimeout(typing); // what is shown may belong to a text that was typed over
  await search();
  at("found").querySelector("button")?.click();
}

function foundRow(item) {
  const add = make("button", { type: "button", className: "name", title: "Add to the history" });
  const note = facts(item);
  note.append(`  ${item.sid.join("")}`, item.blocked ? "  blocked" : "");
  add.append(make("span", { className: "clamp" }, name(item.title)), note);
  add.addEventListener("click", () => choose("history", item));
  const only = action("Only", `Recommend only ${item.title} and others so marked`, () => choose("allow", item));
  only.disabled = item.blocked;
  if (item.blocked) only.title = "A blocked item is never recommended";
  return make("li", {}, add, action("Never", `Never recommend ${item.title}`, () => choose("exclude", item)), only);
}

/* ---- what is chosen ---- */

function choose(list, item) {
  const without = (other) => { chosen[other] = chosen[other].filter((one) => one.id !== item.id); };
  if (list !== "history") { without("exclude"); without("allow"); } // an item is on one of the two
  chosen[list].push(item);
  showChosen();
}

function wanted() {
  const ids = (list) => chosen[list].map((item) => item.id);
  const request = {
    history: ids("history"),
    k: at("k").valueAsNumber,
    exclude_history: at("exclude-history").checked,
    exclude: ids("exclude"),
  };
  if (chosen.allow.length > 0) request.allow = ids("allow");
  return request;
}

function showChosen() {
  at("history").replaceChildren(...chosen.history.map(historyRow));
  at("history-empty").hidden = chosen.history.length > 0;
  for (const list of ["exclude", "allow"]) {
    at(`${list}-box`).hidden = chosen[list].length === 0;
    at(list).replaceChildren(...chosen[list].map((item, index) => chip(list, item, index)));
  }
  showState();
}

/** Follows every change: the address, the button with its reason, and whether the rows still answer what is asked. */
function showState() {
  const request = wanted();
  if (!taking) history.replaceState(null, "", location.pathname + location.search + toAddress(request));
  at("recommend").disabled = !ready || request.history.length === 0;
  at("why").textContent = !ready ? "The server is not ready." : request.history.length === 0 ? "Choose an item first." : "";
  const stale = answered !== null && JSON.stringify(request) !== JSON.stringify(answered);
  at("answer").classList.toggle("stale", stale);
  at("stale").textContent = stale ? "This answers an earlier history or earlier settings: recommend again." : "";
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
  const label = make("span", { className: "name" }, make("span", { className: "clamp", title: item.title }, name(item.title)),
    facts(item));
  const row = make("li", {}, make("span", { className: "number", textContent: index + 1 }), label,
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
  const button = make("button", { type: "button" }, make("span", {}, name(item.title)));
  button.setAttribute("aria-label", `No longer filter by ${item.title}`);
  button.addEventListener("click", remove);
  return make("li", {}, button);
}

/* ---- something to start with ---- */

async function loadExamples() {
  examples = (await ask("examples").catch(() => ({ examples: [] }))).examples;
  at("random").hidden = at("or-examples").hidden = examples.length === 0;
  at("examples").replaceChildren(...examples.slice(0, EXAMPLES).map((items) => {
    const button = make("button", { type: "button", className: "quiet" }, make("span", { className: "clamp" }, name(items[0].title)),
      make("small", { textContent: `and ${items.length - 1} more like it` }));
    button.addEventListener("click", () => start(items));
    return make("li", {}, button);
  }));
}

function start(items) {
  chosen.history = [...items];
  showChosen();
  at("recommend").focus({ preventScroll: true });
  recommend();
}

function startWithAny() {
  const now = wanted().history.join();
  const others = examples.filter((items) => items.map((item) => item.id).join() !== now);
  start(others[Math.floor(Math.random() * others.length)] ?? examples[0]);
}

/** Takes over what the address asks for, and recommends; where the server does not answer, once it does. */
async function takeAddress() {
  const request = fromAddress(location.hash);
  if (request === null) return;
  const gone = [];
  const look = (id) => ask(`v1/items/${encodeURIComponent(id)}`).catch((error) => {
    if (!(error instanceof Refused)) throw error;
    gone.push(id);
  });
  const lists = Object.keys(chosen);
  taking = true;
  try {
    const items = await Promise.all(lists.map((list) => Promise.all(request[list].map(look))));
    lists.forEach((list, place) => { chosen[list] = items[place].filter((item) => item !== undefined); });
  } catch {
    whenReady = takeAddress;
    return;
  }
  taking = false;
  if (request.k >= 1) at("k").value = request.k;
  at("exclude-history").checked = request.exclude_history;
  showChosen();
  await recommend();
  if (gone.length > 0) showError(`no longer in the catalogue: ${gone.join(", ")}`);
}

/* ---- recommendations ---- */

async function recommend(exact = false) {
  if (!ready) { whenReady = recommend; return; }
  if (at("recommend").disabled || !at("settings").reportValidity()) return;
  recommending?.abort();
  recommending = new AbortController();
  const request = wanted();
  at("error").hidden = true;
  at("answer").classList.add("busy");
  const started = performance.now();
  try {
    const answer = await ask("v1/recommend", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(exact ? { ...request, exact } : request),
      signal: recommending.signal,
    });
    showAnswer(request, answer, performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") return;
    clearAnswer();
    showError(error.message);
  }
  at("answer").classList.remove("busy");
}

function showAnswer(request, answer, elapsed) {
  answered = request;
  at("answer").replaceChildren(...answer.items.map((item, index) => answerRow(item, index, (one) => choose("history", one))));
  at("answer-empty").hidden = true;
  at("sharing").hidden = false;
  at("exact").hidden = answer.exact || !wider;
  at("timing").textContent = summary(answer, request, elapsed);
  showState();
  bringIntoSight(at("answer-heading"));
}

function clearAnswer() {
  answered = null;
  at("answer").replaceChildren();
  at("answer-empty").hidden = false;
  at("sharing").hidden = at("copy-by-hand").hidden = at("error").hidden = true;
  at("timing").textContent = at("copied").textContent = "";
  showState();
}

function showError(reason) {
  at("error").textContent = reason;
  at("error").hidden = false;
  bringIntoSight(at("answer-heading"));
}

/** Scrolls to a heading and moves the focus there, unless the upper half of the window shows it already. */
function bringIntoSight(heading) {
  const { top } = heading.getBoundingClientRect();
  if (top >= 0 && top < window.innerHeight / 2) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  heading.focus({ preventScroll: true });
  heading.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

/** Copies a text; shows it to be copied by hand where the browser lets no page copy (plain HTTP on another machine). */
async function copy(text, done) {
  const box = at("copy-by-hand");
  box.hidden = true;
  try {
    await navigator.clipboard.writeText(text);
    at("copied").textContent = done;
  } catch {
    at("copied").textContent = "copy it from here:";
    box.value = text;
    box.hidden = false;
    box.select();
  }
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
  const inField = event.target.matches("input, textarea");
  if (event.key === "/" && !inField) { event.preventDefault(); at("search").focus(); at("search").select(); }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); recommend(); }
});
at("settings").addEventListener("submit", (event) => { event.preventDefault(); recommend(); });
at("settings").addEventListener("input", showState);
at("random").addEventListener("click", startWithAny);
at("only-found").addEventListener("click", () => {
  for (const item of found) if (!item.blocked) choose("allow", item);
});
at("clear").addEventListener("click", () => {
  for (const list of Object.keys(chosen)) chosen[list] = [];
  recommending?.abort();
  clearAnswer();
  showChosen();
  at("search").focus();
});
at("exact").addEventListener("click", () => recommend(true));
at("copy-address").addEventListener("click", () => copy(location.href, "link copied"));
at("copy-curl").addEventListener("click", () => copy(toCurl(wanted()), "command copied"));
window.addEventListener("hashchange", takeAddress);

watchHealth((health) => {
  ready = health !== null;
  if (ready) {
    at("k").max = health.max_k;
    wider = health.max_beams > health.max_k;
  }
  showState();
  if (ready && whenReady) { const act = whenReady; whenReady = null; act(); }
});
search();
loadExamples();
takeAddress();
