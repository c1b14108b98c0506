"""The documents of the real MediaWiki that the scrape tests start, to try other tools on.

    python -m benchmarks.test_wiki OUT

Needs what tests/scrape/real_wiki.py needs; starting the wiki takes a minute.
"""

import sys
import tempfile
from pathlib import Path

from cirilla_cli.progress import Silent
from cirilla_cli.scrape.config import ScrapeConfig
from cirilla_cli.scrape.run import scrape
from tests.scrape.known_pages import pages, truths
from tests.scrape.real_wiki import installed, missing, running


def main(out: Path) -> None:
    """Seed the wiki, serve it on loopback, scrape it into ``out``."""
    why = missing()
    if why is not None:
        raise SystemExit(f"no MediaWiki: {why}")
    with tempfile.TemporaryDirectory() as folder, running(installed(Path(folder) / "wiki", pages(truths()))) as site:
        source = {"kind": "mediawiki", "api": site.api, "pause": 0}
        report = scrape(ScrapeConfig.model_validate({"source": source}), out, Silent())
    print(f"{report.documents} documents in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
