// Everything shown comes from the API and is put in as text: names and errors may be anything.

const CUT_AFTER_MS = 5000; // of silence beyond the time the next event was promised for
const RETRY_MS = 2000;
const MAP_MS = 10000; // between two looks at the map
const ATTEMPTS_MS = 5000; // likewise at the attempts, unless the status tells of something new
const ATTEMPTS_SHOWN = 10;
const ONE_MS = 2000; // between two looks at the account that is explained
const FAR_PCT = 10000; // no factor ever moves so far while an account stands
const WEI = 1e18;
const MARKETS_SHOWN = 5; // in colours of their own; the others share one

const $ = (id) => document.getElementById(id);
const now = () => performance.now();

let status = null; // the newest document
let heard = 0; // when it came
let nextMs = 0; // when the next was promised, from then
let source = null;
let stale = true;
let map = null;
let mapMs = -Infinity; // when it was last asked for
let attemptsMs = -Infinity;
let attemptsKey = ""; // what the status said of them then
let explained = null; // an account: {venue, account}; the address names it
let oneMs = -Infinity; // when it was last asked for

// --- words ---------------------------------------------------------------------------------------

function decimals(number, least, most) {
  return number.toLocaleString("en-US", { minimumFractionDigits: least, maximumFractionDigits: most });
}

function amount(number) {
  if (number === null || number === undefined) return "unknown";
  if (number === 0 || Math.abs(number) >= 1) return decimals(number, 2, 2);
  if (Math.abs(number) < 1e-9) return "almost 0";
  return number.toLocaleString("en-US", { maximumSignificantDigits: 4 });
}

function usd(number) {
  return `${Math.abs(number) >= 1000 ? decimals(number, 0, 0) : amount(number)} USD`;
}

function native(wei) {
  return amount(Number(wei) / WEI);
}

function age(ms) {
  if (ms === null || ms === undefined) return "never";
  const s = Math.max(0, ms) / 1000;
  if (s < 100) return `${decimals(s, 1, 1)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

function count(number, thing) {
  return `${decimals(number, 0, 0)} ${thing}${number === 1 ? "" : "s"}`;
}

// Which venue, where there are several.
function venueOf(one) {
  return Object.keys(status.venues).length > 1 ? one.venue : "";
}

function joined(...parts) {
  return parts.filter(Boolean).join(" · ");
}

// --- the document tree ---------------------------------------------------------------------------

// Without what turns the direction of writing, which could make a text read as another.
function plain(text) {
  return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function put(node, text) {
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown; // a selection survives what is the same
}

function tone(node, name) {
  if (node.className !== name) node.className = name;
}

// A cell is a text, or {text, note, tone, href, meter: [value, most]}.
function fillCell(node, cell) {
  const { text, note = "", href, meter, tone: name = "" } = typeof cell === "string" ? { text: cell } : cell;
  if (!node.firstChild) {
    node.append(document.createElement(href ? "a" : "span"), " ", document.createElement("small"));
    if (meter) node.append(document.createElement("meter"));
  }
  const [main, small, bar] = node.children;
  put(main, text);
  tone(main, name);
  put(small, note);
  small.hidden = !note;
  if (href) main.setAttribute("href", href);
  if (bar && meter) {
    bar.max = meter[1];
    bar.value = meter[0];
  }
}

// Rows are kept by key and changed in place, so that focus and selection stay where they are.
function fillTable(id, rows) {
  const table = $(id);
  const body = table.tBodies[0];
  const numeric = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number"));
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const focused = document.activeElement;
  rows.forEach(([key, ...cells], index) => {
    const row = known.get(key) || document.createElement("tr");
    known.delete(key);
    row.dataset.key = key;
    cells.forEach((cell, column) => {
      if (!row.cells[column]) {
        const node = document.createElement(column ? "td" : "th");
        if (!column) node.scope = "row";
        if (numeric[column]) node.className = "number";
        row.append(node);
      }
      fillCell(row.cells[column], cell);
    });
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] || null);
  });
  for (const row of known.values()) row.remove();
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  table.hidden = !rows.length;
  table.nextElementSibling.hidden = rows.length > 0;
}

// --- what is shown -------------------------------------------------------------------------------

function render() {
  const silent = now() - heard;
  stale = !source || !status || silent > nextMs + CUT_AFTER_MS;
  document.body.classList.toggle("stale", stale);
  if (!status) {
    showState("no data: the keeper does not answer; trying again", "stale");
    return;
  }
  document.querySelector("main").hidden = false;
  const said = status.ready ? "ready" : "not ready";
  if (stale) showState(`STALE: the keeper does not answer; trying again. It said last: ${said}`, "stale");
  else showState(said, status.ready ? "good" : "bad");
  showHeader(silent);
  showMarkets(silent);
  showAccounts(silent);
  showMeans(silent);
}

function showState(text, name) {
  put($("state"), text);
  tone($("state"), name);
  put(document.querySelector("title"), `${stale ? "stale" : status.ready ? "ready" : "not ready"} – keeper`);
}

function showHeader(silent) {
  const { head, latency_ms: wait } = status;
  $("dry-run").hidden = !status.dry_run;
  $("paused").hidden = !status.paused;
  put($("paused"), `PAUSED: ${status.paused}`);
  const { lease } = status;
  $("lease").hidden = !lease || lease.leads;
  put($("lease"), lease ? `STANDBY: ${lease.holder || "nobody"} has the lease` : "");
  const block = head ? `block ${head.block}, ${age(head.age_ms + silent)} old` : "block unknown";
  const spread = wait.count ? `tick to sent: p50 ${amount(wait.p50)} ms, p99 ${amount(wait.p99)} ms of ${wait.count}` : "";
  const outcomes = Object.entries(status.totals.outcomes).map(([name, number]) => `${number} ${name}`).join(", ");
  put($("facts"), joined(`chain ${status.chain_id}`, lease && lease.leads ? "leader" : "", block, spread, outcomes, `heard ${age(silent)} ago`));
  const list = $("reasons");
  while (list.children.length > status.unready.length) list.lastChild.remove();
  status.unready.forEach((reason, index) => {
    put(list.children[index] || list.appendChild(document.createElement("li")), reason);
  });
}

function showMarkets(silent) {
  fillTable("prices", Object.entries(status.prices).map(([feed, one]) => [
    feed,
    feed,
    { text: amount(one.price), note: one.trouble, tone: one.price === null ? "bad" : "" },
    age(one.age_ms === null ? null : one.age_ms + silent),
  ]));
  fillTable("venues", Object.entries(status.venues).map(([venue, one]) => {
    const trouble = !one.loaded ? "not loaded yet" : !one.open ? "closed to this wallet" : one.breaker_open ? "rests after reverts" : "";
    const probe = one.probe ? one.probe.detail : "not asked yet who may liquidate";
    return [
      venue,
      { text: venue, note: joined(trouble, probe), tone: trouble ? "bad" : "" },
      { text: decimals(one.accounts, 0, 0), note: `${decimals(one.in_book, 0, 0)} in the book` },
      { text: decimals(one.under_margined, 0, 0), tone: one.under_margined ? "warn" : "" },
      { text: native(status.totals.profit_wei[venue] || "0"), note: captured(status.liquidations[venue]) },
    ];
  }));
}

function captured({ us, other }) {
  return us + other ? `${decimals(us, 0, 0)} of ${decimals(us + other, 0, 0)} were ours` : "no liquidation seen";
}

function showAccounts(silent) {
  fillTable("accounts", status.accounts.map((one) => {
    const again = wakes(one.until_ms === undefined ? null : one.until_ms - status.now_ms - silent, one.until_block);
    const distance = one.distance_pct;
    return [
      JSON.stringify([one.venue, one.account]),
      { text: one.account, note: venueOf(one), href: addressOf(one) },
      distance === null
        ? { text: "never", note: "no price moves it" }
        : { text: `${decimals(distance, 2, 2)} %`, tone: distance < 0 ? "bad" : distance < 2 ? "warn" : "" },
      { text: one.why, note: joined(one.detail, again) },
    ];
  }));
}

// What ends a hold: a time from now, a block, or whichever comes first.
function wakes(leftMs, block) {
  const ends = [leftMs === null ? "" : `in ${age(leftMs)}`, block ? `at block ${block}` : ""].filter(Boolean);
  return ends.length ? `looked at again ${ends.join(" or ")}` : "";
}

function summary(one) {
  const signed = one.transactions.length === 1 ? "one transaction" : count(one.transactions.length, "transaction");
  const wallet = status.wallets.length > 1 ? status.wallets.find(({ address }) => address === one.wallet) : null;
  const by = joined(`${signed} on nonce ${one.nonce}`, wallet && `wallet ${wallet.name}`);
  if (one.reward_wei === null) return `in flight: ${by}`;
  const block = one.included_block === null ? "not included" : `block ${one.included_block}`;
  return joined(block, `paid ${native(one.reward_wei)} for ${native(one.cost_wei)}`, by);
}

// What happened, and how many seconds after the beginning.
function story(one) {
  return one.history.map(({ at_ms, event, block, facts }) => {
    const what = event === "signed" ? `signed ${facts.kind || ""}` : event === "included" ? `included in block ${block}` : event;
    return `+${decimals((at_ms - one.opened_ms) / 1000, 3, 3)} s ${what}`;
  });
}

function showAttempts(id, attempts) {
  const tones = { won: "good", done: "good", reverted: "bad", dropped: "bad", expired: "bad", lost: "warn", cancelled: "warn" };
  fillTable(id, attempts.map((one) => [
    one.id,
    { text: one.accounts > 1 ? `${one.account} and ${one.accounts - 1} more` : one.account, note: venueOf(one) },
    { text: one.outcome, tone: tones[one.outcome] || "" },
    { text: summary(one), note: joined(one.detail, ...story(one), one.tx_hash) },
  ]));
}

function showMeans(silent) {
  fillTable("budgets", status.budgets.map((one) => {
    const unit = one.unit === "usd" ? "USD" : "native";
    const least = one.left !== null && one.left < one.most / 10;
    const bar = one.left === null ? {} : { meter: [Math.max(0, one.left), one.most] };
    return [one.budget, one.budget, { text: amount(one.left), tone: least ? "bad" : "", ...bar }, `${amount(one.most)} ${unit}`];
  }));
  fillTable("wallets", status.wallets.map((one) => [
    one.address,
    { text: one.name, note: one.address },
    native(one.balance_wei),
    { text: decimals(one.open_attempts, 0, 0), note: one.parked ? `parked: ${one.parked}` : "", tone: one.parked ? "bad" : "" },
  ]));
  fillTable("endpoints", status.endpoints.map((one) => [
    one.endpoint,
    { text: one.endpoint, note: joined(one.roles.join(", "), one.head === null ? "head unknown" : `head ${one.head}`) },
    { text: one.state, note: joined(one.trouble, one.lag_blocks ? `${count(one.lag_blocks, "block")} behind` : ""), tone: one.state === "healthy" ? "good" : "bad" },
    one.latency_ms === null ? "unknown" : `${amount(one.latency_ms)} ms`,
  ]));
  fillTable("loops", Object.entries(status.loops).map(([loop, one]) => [
    loop,
    loop,
    { text: age(one.age_s * 1000 + silent), tone: one.late ? "bad" : "", note: one.late ? "late" : "" },
    age(one.limit_s * 1000),
  ]));
}

// --- the map -------------------------------------------------------------------------------------

function svg(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function rays() {
  const found = [];
  for (const [venue, one] of Object.entries(map.venues)) {
    for (const [ray, bars] of Object.entries(one.rays)) found.push({ venue, ray, bars, of: one });
  }
  return found;
}

// The biggest markets of a ray in bars of their own, then what is left of its notional.
function layers(bars) {
  const most = (values) => Math.max(...values);
  const markets = Object.entries(bars.markets_usd).filter(([, values]) => most(values) > 0);
  markets.sort((one, other) => most(other[1]) - most(one[1]));
  const shown = markets.slice(0, MARKETS_SHOWN);
  const rest = bars.notional_usd.map((all, k) => all - shown.reduce((sum, [, values]) => sum + values[k], 0));
  return most(rest) >= 1 ? [...shown, ["other markets", rest]] : shown;
}

function showMap() {
  const found = rays();
  const select = $("ray");
  const names = found.map(({ venue, ray }) => plain(`${venue}: ${ray === "all" ? "all prices together" : ray}`));
  const same = names.length === select.options.length && names.every((name, k) => select.options[k].textContent === name);
  if (!same) {
    const before = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    const together = found.findIndex(({ ray }) => ray === "all");
    select.selectedIndex = Math.max(0, names.includes(before) ? names.indexOf(before) : together);
  }
  const chosen = found[select.selectedIndex];
  $("map").hidden = !chosen;
  if (chosen) draw(chosen);
  const left = Object.entries(map.left_out).map(([venue, why]) => `${venue} left out: ${why}`);
  const block = chosen ? `as of block ${chosen.of.block}` : "";
  const { quarantined_accounts: set_aside = 0, unpriced_accounts: unpriced = 0 } = chosen ? chosen.of.unknown : {};
  const unknown = set_aside + unpriced ? `${count(set_aside + unpriced, "account")} could not be worked out` : "";
  put($("map-note"), joined(block, unknown, ...left) || "No venue has margins to draw.");
}

function draw({ bars, ray }) {
  const moves = map.moves_pct;
  const highest = Math.max(...bars.notional_usd);
  const picture = $("picture");
  const stack = layers(bars);
  const shapes = [];
  const floor = moves.map(() => 100);
  stack.forEach(([, values], layer) => {
    values.forEach((value, k) => {
      if (!(value > 0)) return;
      const height = (value / highest) * 96;
      floor[k] -= height;
      shapes.push(svg("rect", { class: `m${layer}`, x: 2 * k + 0.15, width: 1.7, y: floor[k], height }));
    });
  });
  const line = (k, name) => svg("line", { class: name, x1: 2 * k + 1, x2: 2 * k + 1, y1: 0, y2: 100 });
  const at = moves.indexOf(Number($("move").value));
  picture.replaceChildren(...shapes, line(moves.indexOf(0), "now"), line(at, "at"));
  const what = (k) => `${count(bars.accounts[k], "account")}, ${usd(bars.notional_usd[k])}`;
  const fall = moves.indexOf(-10);
  const rise = moves.indexOf(10);
  picture.setAttribute("aria-label", `Liquidatable at present: ${what(moves.indexOf(0))}; after -10 %: ${what(fall)}; after +10 %: ${what(rise)}.`);
  put($("map-most"), highest > 0 ? `liquidatable notional at present prices, up to ${usd(highest)}` : "nothing becomes liquidatable in this range");
  const price = bars.price_usd === null ? "" : ` (to ${amount(bars.price_usd * (1 + moves[at] / 100))} USD)`;
  const move = `${moves[at] > 0 ? "+" : ""}${moves[at]} %`;
  put($("at-move"), `${ray === "all" ? "all prices" : ray} ${move}${price}: ${what(at)} liquidatable.`);
  $("move").setAttribute("aria-valuetext", move);
  $("legend").replaceChildren(...stack.map(([market, values], layer) => {
    const swatch = svg("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" });
    swatch.append(svg("rect", { class: `m${layer}`, width: 1, height: 1 }));
    const entry = document.createElement("span");
    const name = document.createElement("span");
    put(name, `${market} ${usd(values[at])}`);
    entry.append(swatch, " ", name);
    return entry;
  }));
}

async function asked(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(MAP_MS) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

async function askForMap() {
  mapMs = now();
  try {
    map = await asked("/api/v1/liquidation-map");
    showMap();
  } catch (error) {
    put($("map-note"), `${map ? "An older map; a newer one" : "The map"} cannot be had: ${error.message}`);
  }
}

// --- the attempts, whole -------------------------------------------------------------------------

async function askForAttempts() {
  const key = JSON.stringify(status.attempts.map((one) => [one.id, one.state, one.transactions]));
  if (key === attemptsKey && now() - attemptsMs < ATTEMPTS_MS) return;
  attemptsKey = key;
  attemptsMs = now();
  try {
    const { attempts, total } = await asked(`/api/v1/attempts?limit=${ATTEMPTS_SHOWN}`);
    showAttempts("attempts", attempts);
    put($("attempts-note"), total > attempts.length ? `The newest of ${decimals(total, 0, 0)}.` : "");
  } catch (error) {
    put($("attempts-note"), `What the journal says cannot be had: ${error.message}`);
  }
}

// --- one account, explained ----------------------------------------------------------------------

function addressOf({ venue, account }) {
  return `#/${encodeURIComponent(venue)}/${encodeURIComponent(account)}`;
}

function pathOf({ venue, account }) {
  return `/api/v1/accounts/${encodeURIComponent(venue)}/${encodeURIComponent(account)}`;
}

// The address says which: links, the back button and a bookmark work as anywhere.
function turnTo() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place on this page
  const [, ...names] = location.hash.split("/");
  try {
    const [venue, account] = names.map(decodeURIComponent);
    explained = venue && account ? { venue, account } : null;
  } catch {
    explained = null; // no address of ours
  }
  $("one").hidden = !explained;
  if (!explained) return;
  put($("one-title"), `Account ${explained.account} at ${explained.venue}`);
  put($("one-note"), "Being asked for.");
  $("one-json").href = pathOf(explained);
  for (const id of ["one-margin", "one-story"]) $(id).hidden = true;
  $("one").querySelector("details").open = false;
  askForOne();
  if (status) $("one-title").focus();
}

async function askForOne() {
  const wanted = explained;
  const query = new URLSearchParams({ ...wanted, limit: ATTEMPTS_SHOWN });
  oneMs = now();
  const [found, told] = await Promise.allSettled([asked(pathOf(wanted)), asked(`/api/v1/attempts?${query}`)]);
  if (wanted !== explained) return;
  if (found.value) showOne(found.value);
  else put($("one-note"), found.reason.message);
  if (told.value) showAttempts("one-attempts", told.value.attempts);
  $("one-margin").hidden = !found.value;
  $("one-story").hidden = !told.value;
}

function showOne(found) {
  const { hold } = found;
  put($("one-note"), [
    found.why,
    hold && joined(`held: ${hold.reason}`, wakes(hold.left_ms, hold.until_block)),
    found.failures_in_a_row && `failed ${count(found.failures_in_a_row, "time")} in a row`,
    found.quarantine && `in quarantine: ${found.quarantine}`,
  ].filter(Boolean).join("\n"));
  put($("one-exact"), exactly(found.assessment));
  showTerms("one-lead", "at the sources' prices", found.at_source_prices);
  showTerms("one-chain", "at the contract's prices", found.at_contract_prices);
  put($("one-state"), `read at block ${found.read_at_block}\n${JSON.stringify(found.state, null, 1)}`);
}

// The words of `keeper explain`.
function exactly(one) {
  if (!one) return "Its exact margin is not known.";
  const [equity, requirement, excess, reward, debt] = [
    one.equity_usd, one.requirement_usd, one.excess_usd, one.reward_usd, one.bad_debt_usd,
  ].map((value) => decimals(value, 2, 2));
  const verdict = one.liquidatable ? "liquidatable" : "not liquidatable";
  return `exactly: ${verdict} by the ${one.by} price; equity ${equity} − requirement ${requirement} = ${excess} USD\nreward ${reward} USD, bad debt ${debt} USD`;
}

function showTerms(id, title, book) {
  const rows = (book ? book.terms : []).map(({ factor, value, usd, weight, move_pct: move }) => [
    factor,
    { text: factor, note: `weight ${weight.toLocaleString("en-US", { maximumSignificantDigits: 6 })}` },
    amount(value),
    amount(usd),
    move === null || Math.abs(move) >= FAR_PCT ? "never" : `${move > 0 ? "+" : ""}${decimals(move, 2, 2)} %`,
  ]);
  if (book) rows.push(["\0constant", "constant", "", amount(book.constant_usd), ""], ["\0excess", "excess", "", amount(book.excess_usd), ""]);
  fillTable(id, rows);
  put($(id).caption, book ? `${title}: ${book.under ? "under-margined" : "above its margin"}` : title);
}

// An account of whichever venue knows it.
async function lookUp(event) {
  event.preventDefault();
  const account = $("which").value.trim();
  if (!account || !status) return;
  const venues = Object.keys(status.venues);
  for (const venue of venues) {
    const known = await asked(pathOf({ venue, account })).then(() => true, () => false);
    if (!known && venue !== venues.at(-1)) continue;
    const address = addressOf({ venue, account });
    if (location.hash === address) turnTo();
    else location.hash = address;
    return;
  }
}

// --- the stream ----------------------------------------------------------------------------------

function connect() {
  source = new EventSource("/api/v1/events");
  source.addEventListener("status", (event) => {
    ({ status, next_ms: nextMs } = JSON.parse(event.data));
    heard = now();
    render();
    if (now() - mapMs > MAP_MS) askForMap();
    askForAttempts();
    if (explained && now() - oneMs > ONE_MS) askForOne();
  });
  source.addEventListener("error", cut);
}

function cut() {
  if (source) source.close();
  source = null;
  render();
}

let tried = now();

// Once a second: ages grow by themselves, and what was cut is tried again.
function tick() {
  if (document.hidden) return;
  const silent = now() - Math.max(heard, tried);
  if (source && silent > nextMs + CUT_AFTER_MS) cut();
  if (!source && now() - tried > RETRY_MS) {
    tried = now();
    connect();
  }
  render();
}

document.addEventListener("visibilitychange", () => (document.hidden ? cut() : tick()));
for (const id of ["ray", "move"]) $(id).addEventListener("input", () => map && showMap());
window.addEventListener("hashchange", turnTo);
$("look-up").addEventListener("submit", lookUp);
turnTo();
connect();
setInterval(tick, 1000);
