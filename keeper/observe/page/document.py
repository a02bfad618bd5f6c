"""The page as one document, with the policy under which a browser runs only what is in it.

It loads nothing, and what it shows is put there by its script, as text, from the API. So the
document is the same for everybody, and a hash names the script and the style it may have.
"""

import base64
import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Document:
    """``text`` is HTML; ``policy`` the value of its Content-Security-Policy."""

    text: str
    policy: str


def assemble(links: Mapping[str, str]) -> Document:
    """Put the files together; ``links``: paths to name at the end, and what is there."""
    files = resources.files(__package__)
    page, style, script = (
        (files / name).read_text(encoding="utf-8") for name in ("index.html", "page.css", "page.js")
    )
    items = "".join(
        f'<li><a href="{html.escape(path)}">{html.escape(path)}</a> {html.escape(text)}</li>'
        for path, text in links.items()
    )
    for mark, part in (("/* style */", style), ("/* script */", script), ("<!-- links -->", items)):
        page = page.replace(mark, part, 1)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Document(page, policy)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
