// The console's script: asks console/api, and shows what it is told as text, never as markup.
const API = new URL("console/api/", document.baseURI);
const SVG = "http://www.w3.org/2000/svg";
const TOKEN = "moontide-token";
const PICTURES_AT_ONCE = 3;
const PICTURES_KEPT = 400;
const MOST_CANDIDATES = 60;
const id = (name) => document.getElementById(name);

// ---- asking

async function send(path, { params = {}, body } = {}) {
  const url = new URL(path, API);
  url.search = new URLSearchParams(params);
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, cache: "no-store", credentials: "omit" };
  if (body) options.body = JSON.stringify(body);
  return fetch(url, options);
}

async function ask(path, options) {
  const answer = await send(path, options);
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401) id("token").focus();
  throw new Error(`${said.title ?? "The server answered"} (${answer.status}). ${said.detail ?? ""}`);
}

let asked = 0;
function say(text, problem = false) {
  id("status").textContent = text;
  id("status").classList.toggle("problem", problem);
}
// Runs one action of a person: says that it runs, and what became of it.
async function act(what, work) {
  const mine = ++asked;
  say(`${what} …`);
  document.body.dataset.busy = "yes";
  try {
    const done = await work();
    if (mine === asked) say(done ?? "");
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    if (mine === asked) delete document.body.dataset.busy;
  }
}

// ---- building

function make(tag, { text, on = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
  for (const [name, handler] of Object.entries(on)) made.addEventListener(name, handler);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}
function draw(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const name = (card) => card.title || card.category || card.item_id;

function face(card, options = {}) {
  const made = make(
    "button",
    { class: "face", type: "button", "aria-label": `Nearest items of ${name(card)}`, on: { click: () => showNear(card.item_id) } },
    make("span", { class: "words", text: name(card) }),
  );
  if (card.pictured) picture(card, made, options.side ?? 192);
  return made;
}

function card(found, { badge, query, note, side } = {}) {
  const made = make("li", { class: "card", "data-item": found.item_id }, face(found, { side }));
  if (query) made.classList.add("query");
  if (found.present === false) made.classList.add("absent");
  if (badge !== undefined) made.append(make("span", { class: "badge", text: badge }));
  made.append(
    make("button", {
      class: "add", type: "button", text: "+", "aria-label": `Add ${name(found)} to the candidates`,
      on: { click: () => addCandidate(found.item_id) },
    }),
    make("span", { class: "title", text: name(found), title: name(found) }),
    make("span", { class: "id", text: found.item_id }),
  );
  if (note) made.append(make("span", { class: "when", text: note }));
  return made;
}

// ---- pictures: a few at once, asked for with the token, kept as blobs

const kept = new Map();
const waiting = [];
let running = 0;

function picture(found, into, side) {
  const key = `${found.item_id} ${side}`;
  const shown = (url) => {
    if (!url || !into.isConnected) return;
    into.replaceChildren(make("img", { src: url, alt: "" }));
  };
  if (kept.has(key)) queueMicrotask(() => shown(kept.get(key)));
  else {
    waiting.push({ key, params: { item_id: found.item_id, side }, into, shown });
    pump();
  }
}

function pump() {
  while (running < PICTURES_AT_ONCE && waiting.length) {
    const next = waiting.shift();
    running += 1;
    fetchPicture(next).finally(() => {
      running -= 1;
      pump();
    });
  }
}

async function fetchPicture({ key, params, into, shown }) {
  await null; // what was just made is put into the page first
  if (!into.isConnected) return;
  for (let turn = 0; turn < 3; turn += 1) {
    const answer = await send("picture", { params }).catch(() => undefined);
    if (answer?.status === 503) {
      await new Promise((done) => setTimeout(done, 500 * (turn + 1)));
      continue;
    }
    const url = answer?.ok ? URL.createObjectURL(await answer.blob()) : "";
    kept.set(key, url);
    if (kept.size > PICTURES_KEPT) {
      const [oldest, old] = kept.entries().next().value;
      kept.delete(oldest);
      if (old) URL.revokeObjectURL(old);
    }
    shown(url);
    return;
  }
}

// ---- what the address says: so that a view can be shared; never the token

const view = new URLSearchParams();
function remember(changes) {
  for (const [key, value] of Object.entries(changes)) value ? view.set(key, value) : view.delete(key);
  history.replaceState(null, "", `#${view}`);
}

// ---- items

const search = (q) =>
  act("Searching", async () => {
    const { items } = await ask("items", { params: { q } });
    id("found").replaceChildren(...items.map((item) => card(item)));
    remember({ q });
    return items.length ? `${items.length} items` : "No item found.";
  });

const showNear = (item) =>
  act("Searching the nearest items", async () => {
    const found = await ask("similar", { params: { item_id: item, k: 12, service: service() } });
    id("near-title").textContent = `Nearest to ${name(found.item)}`;
    const sources = { table: "the in-process table", index: "the vector index", scan: "a scan of the online store" };
    id("near-note").textContent = `Cosines in space ${found.space}, by ${sources[found.source]}. Choose a picture to go on from there.`;
    id("near-cards").replaceChildren(
      card(found.item, { query: true }),
      ...found.hits.map((hit) => card(hit, { badge: hit.cosine.toFixed(3) })),
    );
    id("near").hidden = false;
    remember({ item });
    return `${found.hits.length} neighbours of ${item}`;
  });

// ---- a user

const shownTime = (micros) => (micros ? new Date(micros / 1000).toISOString().replace("T", " ").slice(0, 16) : "none");
let newest = "";

const showUser = (user) =>
  act("Reading the sequence", async () => {
    const found = await ask("sequence", { params: { user_id: user, service: service(), limit: 60 } });
    const rows = found.behaviours;
    newest = rows.find((row) => row.present)?.item_id ?? "";
    id("history-title").textContent = `The newest ${rows.length} behaviours of ${user}`;
    id("history-note").textContent = rows.length
      ? `Newest first, times in UTC. Tiers count the newest ${found.counted}. A dashed frame: no vector.`
      : "This user has no behaviours.";
    id("history-cards").replaceChildren(
      ...rows.map((row) => card(row, { side: 96, note: `${shownTime(row.time)} ${row.action}` })),
    );
    id("history").hidden = false;
    remember({ user });
    return `${rows.length} behaviours`;
  });

const candidates = () => [...new Set(id("candidates").value.split(/[\s,]+/).filter(Boolean))].slice(0, MOST_CANDIDATES);
function addCandidate(item) {
  id("candidates").value = [...new Set([...candidates(), item])].join(" ");
  say(`${item} is among the candidates.`);
}

const suggest = () =>
  act("Searching candidates", async () => {
    if (!newest) return "Show a user with behaviours first.";
    const found = await ask("similar", { params: { item_id: newest, k: 6, service: service() } });
    id("candidates").value = [newest, ...found.hits.map((hit) => hit.item_id)].join(" ");
    return "Candidates: the newest behaviour's item and its nearest.";
  });

const RULES = {
  drop_same_id: "a behaviour on the candidate itself is counted nowhere",
  keep: "a behaviour on the candidate itself is counted like any other",
};

const showTiers = (user, items) =>
  act("Counting tiers", async () => {
    const found = await ask("tiers", { body: { user_id: user, item_ids: items, service: service() } });
    const rows = found.candidates;
    const peak = Math.max(1, ...rows.flatMap((row) => [...row.counts, row.missing]));
    id("tiers-title").textContent = `Tiers of ${rows.length} candidates for ${user}`;
    id("tiers-note").textContent =
      `${found.simtier}: the newest ${found.behaviours} behaviours (at most ${found.length}) in ${found.tiers} tiers of cosine from −1 to 1; ` +
      `behaviours without a vector stand apart. Rule ${found.self_match}: ${RULES[found.self_match] ?? ""}.`;
    id("bars").replaceChildren(...rows.map((row) => candidate(row, found, peak)));
    id("tiers").hidden = false;
    remember({ user, candidates: items.join(" ") });
    return `Tiers of ${rows.length} candidates`;
  });

function candidate(row, found, peak) {
  const counted = row.counts.reduce((sum, count) => sum + count, 0);
  const dropped = found.behaviours - counted - row.missing;
  const said = [`${counted} counted`, `${row.missing} without a vector`];
  if (dropped > 0) said.push(`${dropped} on the item itself, dropped`);
  if (!row.present) said.push("the candidate has no vector");
  return make(
    "li",
    { class: "candidate", "data-item": row.item_id, "data-counts": row.counts.join(" "), "data-missing": row.missing },
    make("div", { class: row.present ? "card" : "card absent" }, face(row, { side: 96 })),
    make("div", {}, make("b", { text: name(row) }), make("br"), make("span", { class: "id", text: row.item_id }), make("p", { class: "note", text: said.join(", ") })),
    bars(row, peak),
  );
}

function bars(row, peak) {
  const [width, height, top, room] = [400, 84, 14, 52];
  const slot = width / row.counts.length;
  const bar = (x, wide, count, kind, what) => {
    const tall = (count / peak) * height;
    const group = draw("g", { class: kind });
    const title = draw("title");
    title.textContent = `${what}: ${count}`;
    group.append(title, draw("rect", { x: x + 1.5, y: top + height - tall, width: wide - 3, height: tall, rx: 1.5 }));
    if (count) group.append(label(x + wide / 2, top + height - tall - 3, String(count)));
    return group;
  };
  const spoken = row.counts.map((count, tier) => [count, tierName(tier, row.counts.length)]).filter(([count]) => count);
  const picture = draw("svg", {
    viewBox: `0 0 ${width + room} ${top + height + 18}`, role: "img",
    "aria-label": `${spoken.map(([count, what]) => `${count} at ${what}`).join(", ") || "nothing counted"}; ${row.missing} without a vector`,
  });
  row.counts.forEach((count, tier) =>
    picture.append(bar(tier * slot, slot, count, 2 * tier >= row.counts.length ? "like" : "unlike", tierName(tier, row.counts.length))),
  );
  picture.append(
    bar(width + 14, room - 24, row.missing, "none", "no vector"),
    draw("line", { class: "axis", x1: 0, x2: width + room - 8, y1: top + height, y2: top + height }),
    label(0, top + height + 13, "−1", "start"), label(width / 2, top + height + 13, "0"), label(width, top + height + 13, "1", "end"),
    label(width + 14 + (room - 24) / 2, top + height + 13, "none"),
  );
  return picture;
}
function label(x, y, text, kind = "") {
  const made = draw("text", { x, y, class: kind });
  made.textContent = text;
  return made;
}
const tierName = (tier, tiers) => `cosine ${(-1 + (2 * tier) / tiers).toFixed(2)} to ${(-1 + (2 * (tier + 1)) / tiers).toFixed(2)}`;

// ---- spaces

const number = (value) => value.toLocaleString("en");
const showSpaces = () =>
  act("Counting", async () => {
    const { spaces } = await ask("spaces");
    id("states-rows").replaceChildren(...spaces.map(state));
    return "";
  });

function state(space) {
  const more = space.whole ? "" : " or more";
  const covered = space.catalog_items === null ? "no catalog" : `${number(space.catalog_vectors)} of ${number(space.catalog_items)} (${percent(space.catalog_vectors, space.catalog_items)})`;
  const table = space.table === null ? "none" : tableState(space.table);
  const cells = space.problem
    ? [make("td", { class: "problem", colspan: 6, text: space.problem })]
    : [`${number(space.vectors)}${more}`, covered, shownTime(space.newest_event), shownTime(space.newest_encoded), table, space.index_rows === null ? space.index_problem : number(space.index_rows)].map((text) => make("td", { text }));
  return make("tr", { "data-space": space.space }, make("th", { scope: "row", text: `${space.space}, ${space.dim} dims` }), ...cells, make("td", {}, make("code", { text: space.encoder_digest.slice(0, 19) || "unnamed" })));
}
function tableState(table) {
  const age = table.polled_at ? `looked at its source ${Math.max(0, Date.now() / 1000 - table.polled_at / 1e6).toFixed(1)} s ago` : "never filled";
  const said = [`${number(table.rows)} of ${number(table.capacity)} rows`, age];
  if (!table.loaded) said.push("still loading");
  if (table.lag >= 0) said.push(`${number(table.lag)} records behind`);
  if (table.refused) said.push(`full: ${number(table.refused)} refused`);
  return said.join(", ");
}
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "none");

// ---- the start

const service = () => id("service").value;
const form = (which, handler) =>
  id(which).addEventListener("submit", (event) => {
    event.preventDefault();
    handler();
  });

async function begin() {
  const site = await ask("site");
  id("service").replaceChildren(...site.services.map((s) => make("option", { value: s.name, text: s.name })));
  if (site.services.some((s) => s.name === view.get("service"))) id("service").value = view.get("service");
  id("service").disabled = site.services.length < 2;
  const { users } = await ask("users", { params: { service: service() } });
  id("users").replaceChildren(...users.map((user) => make("option", { value: user })));
  if (!id("user-id").value) id("user-id").placeholder = users[0] ?? "";
  return site.catalog ? "" : "No catalog is set (MOONTIDE_SERVING_CATALOG): items are shown by their ids.";
}

async function show() {
  id("search").value = view.get("q") ?? "";
  id("user-id").value = view.get("user") ?? "";
  id("candidates").value = view.get("candidates") ?? "";
  await act("Asking the server", begin);
  if (id("status").classList.contains("problem")) return;
  const said = id("status").textContent;
  await showSpaces();
  if (view.get("q")) await search(view.get("q"));
  if (view.get("item")) await showNear(view.get("item"));
  if (view.get("user")) await showUser(view.get("user"));
  if (view.get("user") && candidates().length) await showTiers(view.get("user"), candidates());
  if (said && !view.toString()) say(said);
  document.body.dataset.ready = "yes";
}

form("token-form", () => {
  const token = id("token").value.trim();
  token ? sessionStorage.setItem(TOKEN, token) : sessionStorage.removeItem(TOKEN);
  id("token").value = "";
  show();
});
form("search-form", () => search(id("search").value.trim()));
form("user-form", () => showUser(id("user-id").value.trim() || id("user-id").placeholder));
form("tiers-form", () => showTiers(id("user-id").value.trim() || id("user-id").placeholder, candidates()));
id("suggest").addEventListener("click", suggest);
id("clear").addEventListener("click", () => {
  id("candidates").value = "";
  id("tiers").hidden = true;
  remember({ candidates: "" });
});
id("reload").addEventListener("click", showSpaces);
id("service").addEventListener("change", () => remember({ service: service() }));
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (value) view.set(key, value);
show();
