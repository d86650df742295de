"""What the site makes of links that leave `docs/`: pages of their own, or names of files."""

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: Files of the repository's root that are pages of the site.
ROOT_PAGES = {f"{name}.md": f"{name.lower()}.md" for name in ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages, each with its links as seen from the root."""
    root = Path(config.config_file_path).parent
    for source, page in ROOT_PAGES.items():
        text = (root / source).read_text("utf-8")
        files.append(File.generated(config, page, content=_turn_links(text, folder="", base="")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn the links of a page that lead out of `docs/`."""
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    return _turn_links(markdown, folder=f"docs/{dirname(page.file.src_uri)}", base=dirname(page.file.src_uri))


def _turn_links(text: str, *, folder: str, base: str) -> str:
    """Lead each link to a file of the repository, as seen from `folder`, to its page, or keep its text alone."""

    def turn(found: re.Match[str]) -> str:
        target = normpath(f"{folder}/{found[2]}" if folder else found[2])
        if target in ROOT_PAGES:
            return f"[{found[1]}]({relpath(ROOT_PAGES[target], base or '.')}{found[3] or ''})"
        if not target.startswith("docs/"):
            return found[1]
        return f"[{found[1]}]({relpath(target.removeprefix('docs/'), base or '.')}{found[3] or ''})"

    return LINK.sub(turn, text)
