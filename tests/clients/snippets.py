"""The snippets of docs/clients.md, as somebody copies them."""

import re

from .published import ROOT

_SNIPPET = re.compile(r"^<!-- (\S+) -->\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)

SNIPPETS: dict[str, str] = dict(_SNIPPET.findall((ROOT / "docs" / "clients.md").read_text()))
