"""Mistakes that no single key shows: references, duplicates, orders.

They are looked for in the document as written, not in the settings, so that they are found together
with the mistakes of single keys.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from keeper.config.keyref import is_raw_key, raw_key_lines
from keeper.config.lease import LeaseSettings
from keeper.config.lines import KeyPath
from keeper.config.problems import Problems, listing, suggestion
from keeper.config.settings import Settings
from keeper.decide.hours import market_hours
from keeper.facts import FeedId

Document = Mapping[str, Any]

_LEAK = (
    "looks like a private key or seed phrase; take it out, put it in a file with mode "
    '600 and write key = { file = "path" }'
)


_PARTS = ("numerator", "denominator")  # of a derived feed


def report_leaks(problems: Problems, document: Document, text: str) -> None:
    """Tell of private keys anywhere in the file, comments included, without showing them.

    A price id has the form of a key and is public: where a source lists the ids of its feeds it is
    none.
    """
    told: set[int] = set()
    public: set[str] = set()
    for path, value in _scalars(document, ()):
        parts = [part for part in path if isinstance(part, str)]
        if parts[:2] == ["sources", "feeds"]:
            public.update(part for part in parts[2:] if is_raw_key(part))
            parts = []
        if is_raw_key(value) or any(is_raw_key(part) for part in parts):
            line = problems.line(path)
            told.add(line)
            problems.add_leak(path, line, _LEAK)
    for price_id in public:
        text = text.replace(price_id, "")
    for line in raw_key_lines(text):
        if line not in told:
            problems.add_leak((), line, _LEAK)


def _scalars(value: object, at: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _scalars(inner, (*at, name))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _scalars(inner, (*at, index))
    else:
        yield at, value


def cross_check(problems: Problems, document: Document) -> None:
    """Tell of everything that is wrong between keys."""
    names = _unique(problems, document, "sources", "name")
    feeds = _unique(problems, document, "feeds", "id")
    _unique(problems, document, "venues", "id")
    wallets = _unique(problems, document, "wallets", "name", default="main")
    _check_topics(problems, feeds)
    for index, feed in _tables(document, "feeds"):
        _check_names(problems, feed, ("feeds", index, "sources"), "source", names)
        for part in _PARTS:
            check_feed(problems, ("feeds", index, part), feed.get(part), feeds)
        _check_rule(problems, feed, ("feeds", index))
    _check_derived(problems, document, feeds)
    http = _table(document, "http")
    for key, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if key in http and other not in http:
            problems.add(("http", other), f"is missing; {key} is of no use without it")
    chain = _table(document, "chain")
    check_feed(problems, ("chain", "native_feed"), chain.get("native_feed"), feeds)
    for index, venue in _tables(document, "venues"):
        at = ("venues", index)
        check_feed(problems, (*at, "reward_feed"), venue.get("reward_feed"), feeds)
        _check_budget(problems, venue, at)
        _check_names(problems, venue, (*at, "wallets"), "wallet", wallets)
    for index, wallet in _tables(document, "wallets"):
        _check_wallet(problems, wallet, ("wallets", index))
    _check_treasury(problems, document, wallets)
    _check_lease(problems, document)
    _check_order(problems, document, "treasury", "below_wei", "to_wei")
    _check_order(problems, document, "gate", "backoff_ms_min", "backoff_ms_max")
    _check_order(problems, document, "fees", "priority_fee_wei", "max_fee_per_gas_wei_max")
    _check_order(problems, document, "chain", "confirmations", "reorg_depth_max")


def feed_ids(document: Document) -> list[str]:
    """Return the ids of the feeds as written."""
    ids = (feed.get("id") for _, feed in _tables(document, "feeds"))
    return [name for name in ids if isinstance(name, str)]


def check_feed(
    problems: Problems, path: KeyPath, value: object, feeds: Mapping[str, int] | list[str]
) -> None:
    """Tell of a reference to a feed that there is none of."""
    if isinstance(value, str) and value not in feeds:
        text = f"there is no such feed; {suggestion(value, feeds)}feeds: {listing(feeds)}"
        problems.add(path, text, value=value)


def check_option_feeds(
    problems: Problems, options: BaseModel, at: KeyPath, feeds: list[str]
) -> None:
    """Tell of options declared as ``FeedId`` that name a feed that there is none of."""
    for name, field in type(options).model_fields.items():
        for path, value in _feed_values(field.annotation, getattr(options, name), (*at, name)):
            check_feed(problems, path, value, feeds)


def _feed_values(
    annotation: object, value: object, at: KeyPath
) -> Iterator[tuple[KeyPath, object]]:
    inner = get_args(annotation)
    if annotation is FeedId:
        yield at, value
    elif isinstance(value, Mapping) and inner:
        for key, item in value.items():
            yield from _feed_values(inner[-1], item, (*at, str(key)))
    elif isinstance(value, list | tuple) and inner:
        for index, item in enumerate(value):
            yield from _feed_values(inner[0], item, (*at, index))
    elif value is not None:
        for arm in inner:
            yield from _feed_values(arm, value, at)


def _table(document: Document, name: str) -> Document:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _tables(document: Document, name: str) -> Iterator[tuple[int, Document]]:
    found = document.get(name)
    for index, table in enumerate(found if isinstance(found, list) else ()):
        if isinstance(table, dict):
            yield index, table


def _unique(
    problems: Problems, document: Document, array: str, key: str, default: str | None = None
) -> dict[str, int]:
    """Return name → index in the array; a name given twice is told at the second place."""
    first: dict[str, int] = {}
    for index, table in _tables(document, array):
        name = table.get(key, default)
        if not isinstance(name, str):
            continue
        if name in first:
            line = problems.line((array, first[name], key))
            text = f"is taken by the one on line {line}; choose another"
            problems.add((array, index, key), text, value=name)
        first.setdefault(name, index)
    return first


def _check_topics(problems: Problems, feeds: Mapping[str, int]) -> None:
    topics: dict[str, str] = {}
    for name, index in feeds.items():
        other = topics.setdefault(name.replace("/", "-"), name)
        if other != name:
            text = (
                f'has the same MQTT topic as "{other[:60]}" ("/" becomes "-"); rename one of them'
            )
            problems.add(("feeds", index, "id"), text, value=name)


def _check_names(
    problems: Problems, table: Document, at: KeyPath, what: str, names: Mapping[str, int]
) -> None:
    """Tell of an array that names a source or a wallet that there is none of, or one twice."""
    named = table.get(str(at[-1]))
    seen: set[str] = set()
    for index, name in enumerate(named if isinstance(named, list) else ()):
        if not isinstance(name, str):
            continue
        if name not in names:
            text = f"there is no such {what}; {suggestion(name, names)}{what}s: {listing(names)}"
            problems.add((*at, index), text, value=name)
        elif name in seen:
            problems.add((*at, index), f"is named twice; name each {what} once", value=name)
        seen.add(name)


def _check_rule(problems: Problems, feed: Document, at: KeyPath) -> None:
    """Tell of a feed whose keys can yield no price together."""
    sources = feed.get("sources", [])
    parts = [part for part in _PARTS if part in feed]
    if not isinstance(sources, list):
        return
    if sources and parts:
        text = "makes it a derived feed, which has no sources; take one of them out"
        problems.add((*at, parts[0]), text, value=feed[parts[0]])
    elif not sources and "denominator" not in feed:
        text = "is missing; name at least one source (or a denominator, for a derived feed)"
        problems.add((*at, "sources"), text)
    quorum = feed.get("quorum", 1)
    if sources and isinstance(quorum, int) and quorum > len(sources):
        text = f"should not be more than its {len(sources)} sources; lower it or name more"
        problems.add((*at, "quorum"), text, value=quorum)
    own = feed.get("contract_source")
    if isinstance(own, str) and own not in sources:
        names = [name for name in sources if isinstance(name, str)]
        text = f"is none of its sources; {suggestion(own, names)}sources: {listing(names)}"
        problems.add((*at, "contract_source"), text, value=own)
    hours, zone = feed.get("market_hours", []), feed.get("market_timezone", "UTC")
    if isinstance(zone, str) and isinstance(hours, list):
        try:
            market_hours([span for span in hours if isinstance(span, str)], zone)
        except ValueError as error:
            key = "market_hours" if hours else "market_timezone"
            problems.add((*at, key), str(error))


def _check_derived(problems: Problems, document: Document, feeds: Mapping[str, int]) -> None:
    """Tell of feeds that are derived from themselves."""
    parts = {
        str(feed.get("id")): [feed.get(part) for part in _PARTS]
        for _, feed in _tables(document, "feeds")
    }
    for name, index in feeds.items():
        below: set[object] = set()
        waiting: list[object] = list(parts[name])
        while waiting:
            part = waiting.pop()
            if isinstance(part, str) and part not in below:
                below.add(part)
                waiting += parts.get(part, [])
        if name in below:
            text = "is derived from itself; derive it from feeds that have sources"
            problems.add(("feeds", index, "id"), text, value=name)


def _check_budget(problems: Problems, venue: Document, at: KeyPath) -> None:
    budget = venue.get("solvency_budget_wei", 0)
    if budget and venue.get("objective", "profit") == "profit":
        text = 'has no effect without objective = "solvency"; set that, or take this out'
        problems.add((*at, "solvency_budget_wei"), text, value=budget)


def _check_wallet(problems: Problems, wallet: Document, at: KeyPath) -> None:
    if sum(key in wallet for key in ("key", "keystore", "signer")) != 1:
        text = "should have exactly one of key, keystore and signer; without wallets: a dry run"
        problems.add(at, text)
    if "keystore" in wallet and "password" not in wallet:
        text = 'is missing; a keystore needs one: password = { file = "path" }'
        problems.add((*at, "password"), text)
    if "password" in wallet and "keystore" not in wallet:
        problems.add((*at, "password"), "belongs to a keystore; take it out")
    if "signer" in wallet and "address" not in wallet:
        problems.add((*at, "address"), "is missing; say for whom the remote signer signs")
    for key in ("address", "signer_timeout_ms"):
        if key in wallet and "signer" not in wallet:
            problems.add((*at, key), "belongs to a remote signer; take it out")


def _check_order(problems: Problems, document: Document, table: str, low: str, high: str) -> None:
    """Tell when ``low`` exceeds ``high``, either of which may be at its default."""
    field = Settings.model_fields[table].annotation
    if not (isinstance(field, type) and issubclass(field, BaseModel)):
        msg = f"{table} is no table of its own"
        raise TypeError(msg)
    values = _table(document, table)
    least = values.get(low, field.model_fields[low].default)
    most = values.get(high, field.model_fields[high].default)
    if isinstance(least, int) and isinstance(most, int) and least > most:
        path = (table, low if low in values else high)
        text = (
            f"{low} should not be more than {high} ({least} > {most}); lower one or raise the other"
        )
        problems.add(path, text)


def _check_treasury(problems: Problems, document: Document, wallets: Mapping[str, int]) -> None:
    name, at = _table(document, "treasury").get("wallet"), ("treasury", "wallet")
    if not isinstance(name, str):
        return
    if name not in wallets:
        text = f"there is no such wallet; {suggestion(name, wallets)}wallets: {listing(wallets)}"
        problems.add(at, text, value=name)
    elif len(wallets) == 1:
        problems.add(at, "is the only wallet and acts nowhere; add one that does", value=name)
    for index, venue in _tables(document, "venues"):
        named = venue.get("wallets")
        if isinstance(named, list) and name in named:
            text = "is the treasury, which acts nowhere; take it out"
            problems.add(("venues", index, "wallets"), text, value=name)


def _check_lease(problems: Problems, document: Document) -> None:
    lease = _table(document, "lease")
    kind = lease.get("kind", "none")
    fields = LeaseSettings.model_fields
    ttl_s, renew_s = (lease.get(key, fields[key].default) for key in ("ttl_s", "renew_s"))
    if isinstance(ttl_s, int) and isinstance(renew_s, int) and 2 * renew_s >= ttl_s:
        key = "renew_s" if "renew_s" in lease else "ttl_s"
        text = f"renew_s should be less than half of ttl_s ({renew_s}, {ttl_s}); lower or raise one"
        problems.add(("lease", key), text)
    if kind == "nats" and not lease.get("servers"):
        problems.add(("lease", "servers"), "is missing; name the servers of the NATS cluster")
