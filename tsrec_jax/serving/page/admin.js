/* The page for catalogue changes. The token is kept in its field alone: in no storage, no cookie and no address. */

import { facts } from "./answer.js";
import { action, ask, askText, at, make, name, watchHealth } from "./server.js";

const FOUND = 50;
const JOURNAL = 100;
const FACTS = ["brand", "categories", "image"]; // of an item, where it has them
let searching = null;
let typing = 0;
let edited = null; // the item in the form, as it was found

async function search() {
  searching?.abort();
  searching = new AbortController();
  const text = at("search").value.trim();
  try {
    const answer = await ask(`v1/items?limit=${FOUND}&q=${encodeURIComponent(text)}`, { signal: searching.signal });
    at("found").replaceChildren(...answer.items.map(row));
    const more = answer.items.length === FOUND ? "; type more words to narrow them down" : "";
    at("found-note").textContent = `${answer.items.length} of ${answer.of.toLocaleString("en")} items${more}`;
  } catch (error) {
    if (error.name === "AbortError") return;
    at("found").replaceChildren();
    at("found-note").textContent = error.message;
  }
}

function row(item) {
  const note = facts(item);
  note.append(`  ${item.sid.join("")}`, item.blocked ? "  blocked" : "");
  const label = make("span", { className: "name" }, make("span", { className: "clamp", title: item.title }, name(item.title)), note);
  const turn = item.blocked ? "Unblock" : "Block";
  return make("li", {}, label, action("Edit", `Edit ${item.title}`, () => edit(item)),
    action(turn, `${turn} ${item.title}`, () => patch(item, { blocked: !item.blocked }, `${turn}ed`)),
    action("Remove", `Remove ${item.title}`, () => remove(item)));
}

/** What is saved next is a change of this item, as long as the id stays; null: it is a new one. */
function found(item) {
  edited = item;
  at("description").disabled = item !== null; // it is read for the SID of a new item, and not kept
}

function edit(item) {
  found(item);
  at("id").value = item.id;
  at("title").value = item.title;
  at("sid").value = item.sid.join("");
  for (const fact of ["description", ...FACTS]) at(fact).value = item[fact] ?? "";
  at("blocked").checked = item.blocked;
  at("form-heading").scrollIntoView({ block: "nearest" });
  at("title").focus();
}

/** Adds an item; one that is there already is refused, as the form does not show what would be lost. */
async function put(item) {
  const keys = ["title", "sid", "blocked", "description", ...FACTS].filter((key) => item[key]);
  const body = JSON.stringify(Object.fromEntries(keys.map((key) => [key, item[key]])));
  const answer = await change(item.id, { method: "PUT", headers: { "Content-Type": "application/json", "If-None-Match": "*" }, body });
  if (!answer) return;
  found({ ...item, sid: answer.sid ?? [item.sid] });
  await show("Added", item.id, answer);
  if (answer.neighbours) showCoding(answer);
}

/** Changes what is stated of an item; what others have changed of it since it was found stays. */
async function patch(item, stated, done) {
  const body = JSON.stringify(stated);
  const answer = await change(item.id, { method: "PATCH", headers: { "Content-Type": "application/json" }, body });
  if (answer) await show(done, item.id, answer);
  return answer;
}

/** The SID that the server made of an item's texts, and what it took the item to be like. */
function showCoding({ sid, sure, shared_with: others, neighbours }) {
  const shared = others.length > 0 ? `, which it shares with ${others.join(", ")}` : "";
  at("done").append(` Its semantic ID is ${sid.join("")}${shared}; ${Math.round(100 * sure)} % of the items fit theirs no better.`);
  at("neighbours").replaceChildren(...neighbours.map((near) => make("li", {}, make("span", { className: "name" }, name(near.title), facts(near)))));
  at("neighbours").hidden = neighbours.length === 0;
}

/** What the form says of the item in it that is not as it was found. */
function difference(item) {
  const found = { brand: "", categories: "", image: "", ...edited, sid: edited.sid.join("") };
  const keys = ["title", "blocked", ...FACTS, ...(item.sid ? ["sid"] : [])]; // without a SID it keeps its own
  return Object.fromEntries(keys.filter((key) => item[key] !== found[key]).map((key) => [key, item[key]]));
}

async function remove(item) {
  at("sure-question").replaceChildren("Remove ", name(item.title), "?");
  at("sure").returnValue = "";
  at("sure").showModal();
  await new Promise((closed) => at("sure").addEventListener("close", closed, { once: true }));
  if (at("sure").returnValue !== "remove") return;
  const answer = await change(item.id, { method: "DELETE" });
  if (answer) await show("Removed", item.id, answer);
}

/** Makes a change with the token; shows why it was refused, and returns nothing then. */
async function change(id, options) {
  at("error").hidden = at("neighbours").hidden = true;
  at("done").textContent = "";
  try {
    const bytes = new TextEncoder().encode(at("who").value.trim()); // a header takes no other letters
    const who = bytes.length > 0 ? { "X-Changed-By": String.fromCharCode(...bytes) } : {};
    return await ask(`v1/items/${encodeURIComponent(id)}`, { ...options, headers: { ...options.headers, ...who, ...token() } });
  } catch (error) {
    showError(error);
    return null;
  }
}

const token = () => ({ Authorization: `Bearer ${at("token").value.trim()}` });

function showError(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
  at("error").scrollIntoView({ block: "nearest" });
  if (error.status === 401) at("token").focus();
}

async function show(done, id, answer) {
  at("done").replaceChildren(`${done}: `, name(id), `; now ${answer.items.toLocaleString("en")} items.`);
  await search();
}

/** The newest changes, the last one first. */
async function showJournal() {
  at("error").hidden = true;
  try {
    const { last_change: last } = await ask("health");
    const lines = await askText(`v1/catalogue/changes?after=${Math.max(0, last - JOURNAL)}&limit=1000`, { headers: token() });
    const changes = lines.trim().split("\n").filter(Boolean).map((line) => JSON.parse(line)).reverse();
    const cells = ({ at: when, who, action: what, id }) => [when.replace("T", " ").replace(/\..*|Z$/, ""), who, what, id];
    at("journal").tBodies[0].replaceChildren(...changes.map((one) =>
      make("tr", {}, ...cells(one).map((text) => make("td", {}, name(text))))));
    at("journal").hidden = false;
    at("show-journal").textContent = "Show again";
  } catch (error) {
    showError(error);
  }
}

at("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 150); });
at("item").addEventListener("submit", async (event) => {
  event.preventDefault();
  const item = { id: at("id").value, blocked: at("blocked").checked };
  for (const fact of ["title", "sid", "description", ...FACTS]) item[fact] = at(fact).value.trim();
  if (edited?.id !== item.id) {
    put(item);
    return;
  }
  const stated = difference(item);
  if (Object.keys(stated).length > 0) edited = await patch(item, stated, "Changed") ?? edited;
  else at("done").textContent = "Nothing is to be changed.";
});

at("id").addEventListener("input", () => { at("description").disabled = at("id").value === edited?.id; });
at("item").addEventListener("reset", () => found(null));
at("show-journal").addEventListener("click", showJournal);

watchHealth(() => {});
search();
