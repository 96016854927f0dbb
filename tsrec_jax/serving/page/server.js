/* What both pages share: asking the server, its state, and making nodes.

   Every text of the catalogue reaches the page through textContent, so that none of it is ever read as HTML, and through
   <bdi>, so that a title that runs from right to left turns nothing around it. */

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export const name = (text) => make("bdi", { textContent: text });

export function action(text, label, act) {
  const button = make("button", { type: "button", className: "act", textContent: text });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

/** The server has answered, and not with what was wanted. */
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** The body of an answer; an error with the server's reason where it is a refusal. */
export async function askText(address, options = {}) {
  let response, text;
  try {
    response = await fetch(address, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer");
  }
  if (!response.ok) throw new Refused(response.status, readJson(text)?.error ?? `status ${response.status}`);
  return text;
}

export async function ask(address, options = {}) {
  const answer = readJson(await askText(address, options));
  if (answer === null) throw new Error("the server's answer is no JSON");
  return answer;
}

function readJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Shows the server's state from now on; `changed` gets what /health says, or null while it is not ready. */
export async function watchHealth(changed) {
  let health = null;
  const status = at("status");
  try {
    health = await ask("health");
    status.dataset.state = "ok";
    status.textContent = `ready: ${health.items.toLocaleString("en")} items`;
  } catch (error) {
    status.dataset.state = error instanceof Refused ? "waiting" : "down"; // it warms up or ends; or it is gone
    status.textContent = error.message;
  }
  changed(health);
  setTimeout(() => watchHealth(changed), health ? 5000 : 1000);
}
