/* A request as an address that can be shared, and as a command. The part of an address behind # is never sent to a server. */

const LISTS = { history: "history", never: "exclude", only: "allow" }; // in the address: in the request

export function toAddress(wanted) {
  const parts = new URLSearchParams();
  for (const [key, list] of Object.entries(LISTS)) for (const id of wanted[list] ?? []) parts.append(key, id);
  if (parts.size === 0) return "";
  parts.set("k", wanted.k);
  if (wanted.exclude_history) parts.set("new", 1);
  return `#${parts}`;
}

/** What an address asks for; null where it asks for nothing. */
export function fromAddress(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  const wanted = Object.fromEntries(Object.entries(LISTS).map(([key, list]) => [list, parts.getAll(key)]));
  if (wanted.history.length + wanted.exclude.length + wanted.allow.length === 0) return null;
  return { ...wanted, k: Number.parseInt(parts.get("k") ?? 10, 10), exclude_history: parts.has("new") };
}

/** The request as a command for a POSIX shell. */
export function toCurl(wanted) {
  const address = new URL("v1/recommend", document.baseURI);
  address.hash = "";
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return `curl ${quoted(address.href)} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(wanted))}`;
}
