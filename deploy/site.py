"""What MkDocs does not do by itself, for mkdocs.yml: the site has the repository's shape without `docs/`, so that links which hold in the
repository hold in the site."""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "deploy/README.md",
    "deploy/grafana/export-service.json",
    "deploy/prometheus/rules.yml",
    "deploy/cloudwatch/alarms.yml",
    "deploy/state-machine.asl.json",
)
"""Files that pages link to and that are not in docs/."""
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_LIST = re.compile(r"(?:[-*]|1\.) ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    assert config.nav is not None
    for section in config.nav:
        if "Decisions" in section:
            names = sorted((path.name for path in (ROOT / "docs/decisions").glob("*.md")), key=lambda name: (name[0] != "R", name))
            section["Decisions"] = [f"decisions/{name}" for name in names]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  # as MkDocs calls it
    return as_in_the_site(markdown, page.file.src_uri)


def as_in_the_site(markdown: str, uri: str) -> str:
    """A page of the repository with links as the site needs them, and a blank line before lists, which Python-Markdown wants.

    Args:
        uri: the page's place in the site.
    """
    lines: list[str] = []
    fenced = False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        if not fenced:
            line = _LINK.sub(lambda found: _target(found[1], uri), line)
            if _LIST.match(line) and lines and lines[-1].strip() and not _LIST.match(lines[-1]):
                lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _target(link: str, uri: str) -> str:
    here = posixpath.dirname(uri if uri in OUTSIDE else f"docs/{uri}")
    there = posixpath.normpath(posixpath.join(here, link))
    if there.startswith("docs/") or there in OUTSIDE:
        return os.path.relpath(there.removeprefix("docs/"), posixpath.dirname(uri) or ".")
    return link
