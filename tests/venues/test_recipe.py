"""The README's recipe, done literally in a copy of the repository, for a contract that differs.

``bazaar.vy`` has other names, orders, decimals, rates, roles and another way to pay than the
template's market. The edits are those that the recipe's table names, and no others.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# ruff: noqa: E501 - an edit is shown as it is made
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
VENUE_LINES_MAX = 200
S_MAX = 180

VENUE = [
    # names, and the order of arguments and of what is returned
    (
        'Function("markets(address)", "uint256,uint256,uint256")',
        'Function("termsOf(address)", "uint256,uint256,uint256")',
    ),
    (
        'Function("positions(address,address)", "int256,uint256,int256")',
        'Function("tradeOf(address,address)", "uint256,uint256,int256")',
    ),
    (
        'READ_PAUSED = Function("paused()", "bool")',
        'READ_ALLOWED = Function("mayLiquidate(address)", "bool")',
    ),
    (
        'Function("liquidate(address,address)", "")',
        'Function("liquidate(address,address)", "uint256")',
    ),
    (
        '"PositionChanged(address indexed market, address indexed trader)"',
        '"Traded(address indexed account, address indexed amm, int256 amount)"',
    ),
    (
        """    "PositionLiquidated(address indexed market, address indexed trader,"
    " address indexed liquidator, uint256 reward)",
""",
        """    "Closed(address indexed account, address indexed amm, uint256 bounty, address keeper)",
""",
    ),
    ('{"healthy": "not_liquidatable", "no price": "oracle"}', '{"SOLVENT": "not_liquidatable"}'),
    ("{fields['market']}:{fields['trader']}", "{fields['amm']}:{fields['account']}"),
    ('if name != "PositionLiquidated"', 'if name != "Closed"'),
    ('fields["liquidator"], fields["reward"]', 'fields["keeper"], fields["bounty"]'),
    ('each = [account.split(":") for', 'each = [account.split(":")[::-1] for'),
    (
        'arguments = assessment.account.split(":")',
        'arguments = assessment.account.split(":")[::-1]',
    ),
    (
        "    size: int\n    entry_price: int\n    margin: int\n",
        "    margin: int\n    entry_price: int\n    size: int\n",
    ),
    ("for name, (price, _, _) in market.terms", "for name, (_, _, price) in market.terms"),
    ("price, maintenance, reward = market.terms", "maintenance, reward, price = market.terms"),
    ("_, maintenance, reward = await", "maintenance, reward, _ = await"),
    ("market.terms[name][1] / RATE", "market.terms[name][0] / RATE"),
    # decimals
    ("PRICE = 10**8", "PRICE = 10**18"),
    ("MONEY = 10**6", "MONEY = 10**18"),
    ("RATE = 10_000  # maintenance and reward rates: basis points", "RATE = 10**18"),
    # how a reward is paid: a fixed bounty, asked for on top of the maintenance, returned
    (
        "required = notional * maintenance // RATE",
        "required = notional * maintenance // RATE + reward",
    ),
    (
        "constant = account.margin / MONEY -",
        "constant = (account.margin - market.terms[name][1]) / MONEY -",
    ),
    ("notional * reward // RATE * WAD // MONEY if under", "reward * WAD // MONEY if under"),
    (
        """        paid = [fields["reward"] for log in done.logs if (fields := EVENTS.read(log)[1])]
        reward_wad = sum(paid) * WAD // MONEY if paid else assessment.reward_wad
""",
        "        reward_wad = done.returned * WAD // MONEY\n",
    ),
    ("reward {reward / RATE:.2%}", "reward {reward / MONEY:g} USD"),
    # who may
    (
        "paused = await self._contract.probe(READ_PAUSED)",
        'allowed = await self._contract.probe(READ_ALLOWED, wallet or "0x" + "00" * 20)',
    ),
    ("isinstance(paused, facts.Probe)", "isinstance(allowed, facts.Probe)"),
    ("return paused  #", "return allowed  #"),
    ('EVENTS.named["PositionLiquidated"]', 'EVENTS.named["Closed"]'),
    (
        'facts.Probe(not paused, "paused" if paused else "anyone may liquidate", told)',
        'facts.Probe(allowed, "open" if allowed else "no keeper there", told)',
    ),
]
SCENE = [
    ("SIZE, PRICE, MONEY = 10**18, 10**8, 10**6", "SIZE, PRICE, MONEY = 10**18, 10**18, 10**18"),
    (
        "MAINTENANCE, REWARD = 625, 125  # in basis points",
        "MAINTENANCE, REWARD = 10**18 // 16, 20 * 10**18",
    ),
    (
        '"set_market", ETH, (2_000 * PRICE, MAINTENANCE, REWARD)',
        '"setTerms", ETH, (MAINTENANCE, REWARD, 2_000 * PRICE)',
    ),
    (
        '"set_market", BTC, (60_000 * PRICE, MAINTENANCE, REWARD)',
        '"setTerms", BTC, (MAINTENANCE, REWARD, 60_000 * PRICE)',
    ),
    (
        'self.send("set_position", market, self.trader(number), (size, entry_price, margin))',
        'self.send("setTrade", self.trader(number), market, (margin, entry_price, size))',
    ),
    ('"set_price", ETH, 1_950', '"setMark", ETH, 1_950'),
    ('"set_price", ETH, 1_900', '"setMark", ETH, 1_900'),
    ('"set_price", ETH, 1_894', '"setMark", ETH, 1_894'),
    ('"liquidate", ETH, market.trader(5)', '"liquidate", market.trader(5), ETH'),
    ("2_243_750_000)", "2_263_750 * 10**15)"),
    ("2_243_749_999),  # and a millionth below it", "2_263_750 * 10**15 - 1),"),
]
TEST = [
    (
        "margin = notional * MAINTENANCE // RATE - gained + slack",
        "margin = max(0, notional * MAINTENANCE // RATE + REWARD - gained + slack)",
    ),
    (
        "import BTC, ETH, FEEDS, MAINTENANCE, MONEY, PRICE, SIZE, IsolatedMarket",
        "import (\n    BTC,\n    ETH,\n    FEEDS,\n    MAINTENANCE,\n    MONEY,\n    PRICE,\n    REWARD,\n    SIZE,\n    IsolatedMarket,\n)",
    ),
    ('Refused("not_liquidatable", "healthy")', 'Refused("not_liquidatable", "SOLVENT")'),
    ('"set_paused", True', '"setShut", True'),
    ('(False, "paused")', '(False, "no keeper there")'),
    ('"maintenance 6.25%, reward 1.25%"', '"maintenance 6.25%, reward 20 USD"'),
]
EDITS = {
    "keeper/venues/acme.py": VENUE,
    "tests/venues/acme.py": SCENE,
    "tests/venues/test_acme.py": TEST,
}


def recipe() -> tuple[str, str]:
    """Return the recipe's two blocks of commands: what is copied, and what is run."""
    section = README.partition("## Add a venue in an afternoon\n")[2].partition("\n## ")[0]
    copying, running = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return copying, running


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what git knows of the repository."""
    folder = tmp_path_factory.mktemp("recipe")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(copy: Path, commands: str) -> str:
    """Run what the recipe says in the copy, with this environment's Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_recipe_adds_a_venue_for_a_contract_that_differs(copy: Path) -> None:
    copying, running = recipe()
    run(copy, copying)
    for name, edits in EDITS.items():
        text = (copy / name).read_text(encoding="utf-8")
        for old, new in edits:
            assert text.count(old) == 1, f"{name}: {old}"
            text = text.replace(old, new)
        (copy / name).write_text(text, encoding="utf-8")
    shutil.copy(HERE / "bazaar.vy", copy / "tests/venues/acme.vy")

    said = run(copy, running)

    assert "recorded acme" in said
    venue = (copy / "keeper/venues/acme.py").read_text(encoding="utf-8")
    assert venue.count("\n") <= VENUE_LINES_MAX
    python = "from keeper.config import kinds; print(*kinds('venues'))"
    assert "acme" in run(copy, f'{sys.executable} -c "{python}"').split()
