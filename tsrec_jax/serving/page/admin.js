/* The page for catalogue changes. The token is kept in its field alone: in no storage, no cookie and no address. */

import { facts } from "./answer.js";
import { action, ask, at, make, name, watchHealth } from "./server.js";

const FOUND = 50;
const FACTS = ["brand", "categories", "image"]; // of an item, where it has them
let searching = null;
let typing = 0;

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
    action(turn, `${turn} ${item.title}`, () => put({ ...item, blocked: !item.blocked }, `${turn}ed`)),
    action("Remove", `Remove ${item.title}`, () => remove(item)));
}

function edit(item) {
  at("id").value = item.id;
  at("title").value = item.title;
  at("sid").value = item.sid.join("");
  for (const fact of FACTS) at(fact).value = item[fact] ?? "";
  at("blocked").checked = item.blocked;
  at("form-heading").scrollIntoView({ block: "nearest" });
  at("title").focus();
}

async function put(item, done) {
  const keys = ["title", "sid", "blocked", ...FACTS].filter((key) => item[key] !== undefined);
  const body = JSON.stringify(Object.fromEntries(keys.map((key) => [key, item[key]])));
  const answer = await change(item.id, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
  if (answer) await show(done ?? (answer.new ? "Added" : "Changed"), item.id, answer);
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
  at("error").hidden = true;
  at("done").textContent = "";
  try {
    const headers = { ...options.headers, Authorization: `Bearer ${at("token").value.trim()}` };
    return await ask(`v1/items/${encodeURIComponent(id)}`, { ...options, headers });
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
    at("error").scrollIntoView({ block: "nearest" });
    if (error.status === 401) at("token").focus();
    return null;
  }
}

async function show(done, id, answer) {
  at("done").replaceChildren(`${done}: `, name(id), `; now ${answer.items.toLocaleString("en")} items.`);
  await search();
}

at("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 150); });
at("item").addEventListener("submit", (event) => {
  event.preventDefault();
  const item = { id: at("id").value, title: at("title").value.trim(), sid: at("sid").value.trim(), blocked: at("blocked").checked };
  for (const fact of FACTS) item[fact] = at(fact).value.trim();
  put(item);
});

watchHealth(() => {});
search();
